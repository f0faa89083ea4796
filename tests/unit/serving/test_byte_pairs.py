"""Byte-pair merges against the plain algorithm: the lowest rank first, all of its pairs, from the left."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from clip_serving.text.byte_pairs import byte_symbols, merge

Ranks = dict[tuple[str, str], int]
_symbol = st.text("ab", min_size=1, max_size=3)


def plain(word: list[str], ranks: Ranks) -> list[str]:
    while True:
        known = [pair for pair in pairwise(word) if pair in ranks]
        if not known:
            return word
        best, merged, at = min(known, key=ranks.__getitem__), [], 0
        while at < len(word):
            size = 2 if tuple(word[at : at + 2]) == best else 1
            merged.append("".join(word[at : at + size]))
            at += size
        word = merged


@given(
    word=st.text("ab", max_size=40),
    pairs=st.lists(st.tuples(_symbol, _symbol), unique=True, max_size=12),
)
def test_merges_are_those_of_the_plain_algorithm(word: str, pairs: list[tuple[str, str]]) -> None:
    ranks = {pair: rank for rank, pair in enumerate(pairs)}
    assert merge(list(word), ranks) == plain(list(word), ranks)


def test_each_byte_has_its_own_printable_symbol() -> None:
    symbols = byte_symbols()
    assert sorted(symbols) == list(range(256))
    assert len(set(symbols.values())) == 256
    assert all(symbol.isprintable() and not symbol.isspace() for symbol in symbols.values())
    assert symbols[ord("a")] == "a"
