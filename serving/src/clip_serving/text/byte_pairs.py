"""Byte-pair encoding: one word to the symbols of a vocabulary, by merges that were learned in an order."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence

END_OF_WORD = "</w>"
_END = -1


def byte_symbols() -> dict[int, str]:
    """A printable character for each byte: CLIP's vocabulary spells bytes with these.

    A byte that is a printable character of Latin-1 stands for itself; the others get the characters from
    U+0100 on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    symbols = {byte: chr(byte) for byte in sorted(printable)}
    return symbols | {byte: chr(256 + number) for number, byte in enumerate(others)}


def merge(word: Sequence[str], ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """Merges neighboring symbols of `word`: the pair of the lowest rank first, from the left.

    Time grows as n log n with the length of the word, so a long one cannot hold up its neighbors.
    """
    symbols: list[str] = [*word]
    after = [*range(1, len(symbols)), _END]
    before = [*range(-1, len(symbols) - 1)]
    waiting: list[tuple[int, int, tuple[str, str]]] = []

    def consider(places: Iterable[int]) -> None:
        for at in places:
            if at != _END and after[at] != _END:
                pair = (symbols[at], symbols[after[at]])
                if pair in ranks:
                    heapq.heappush(waiting, (ranks[pair], at, pair))

    consider(range(len(symbols)))
    while waiting:
        merged = []
        # All pairs of one rank are merged before pairs that these merges make.
        for at, pair in _lowest(waiting):
            follower = after[at]
            if symbols[at] and follower != _END and (symbols[at], symbols[follower]) == pair:
                symbols[at] += symbols[follower]
                symbols[follower] = ""
                after[at] = after[follower]
                if after[at] != _END:
                    before[after[at]] = at
                merged.append(at)
        consider({place for at in merged for place in (before[at], at)})
    return [symbol for symbol in symbols if symbol]


def _lowest(waiting: list[tuple[int, int, tuple[str, str]]]) -> list[tuple[int, tuple[str, str]]]:
    """Takes the pairs of the lowest rank, with their places from left to right."""
    rank = waiting[0][0]
    found: list[tuple[int, tuple[str, str]]] = []
    while waiting and waiting[0][0] == rank:
        _, at, pair = heapq.heappop(waiting)
        if not found or found[-1][0] != at:
            found.append((at, pair))
    return found
