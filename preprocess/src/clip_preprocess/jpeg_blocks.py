"""Huffman-coded blocks of a JPEG, without their pixels: whether bytes are blocks to the last bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import simplejpeg

from clip_preprocess.headers.jpeg_segments import DHT, FRAMES, PROGRESSIVE, segments

Table = dict[str, int]
"""From a code's bits to its symbol."""


@dataclass(frozen=True)
class _Block:
    """How the blocks of one component are coded in a scan."""

    dc: Table | None
    ac: Table | None
    first: int
    last: int
    progressive: bool


def are_blocks(padding: str, data: bytes, tables: bytes, scan: bytes) -> bool:
    """Whether the bits of `padding` and `data` are blocks of the scan, with ones up to the last byte.

    `tables` are the segments before the scan, and `scan` is its header. False for the scans of a progressive
    file that refine coefficients: their bits have no structure of their own. Frames of a film have no Huffman
    tables, and mean the standard ones.
    """
    data = data.replace(b"\xff\0", b"\xff")
    bits = padding + f"{int.from_bytes(data, 'big'):0{8 * len(data)}b}"
    unit = _unit(_standard_tables() + tables, scan)
    at, begin = 0, -1
    while unit and at > begin:
        if len(bits) - at < 8 and "0" not in bits[at:]:
            return True
        begin = at
        for block in unit:
            after = _skip(bits, at, block)
            if after is None:
                return False
            at = after
    return False


@cache
def _standard_tables() -> bytes:
    """The DHT segments that the encoder writes unless it is told to optimize."""
    data = simplejpeg.encode_jpeg(np.zeros((8, 8, 3), np.uint8))
    return b"".join(data[each.body - 4 : each.end] for each in segments(data, 2) if each.marker == DHT)


def _unit(tables: bytes, scan: bytes) -> list[_Block]:
    """The blocks of one unit of the scan, in their order; none for scans that refine."""
    huffman, sampling, progressive = _read(tables)
    count = scan[4]
    first, last, bits = scan[5 + 2 * count : 8 + 2 * count]
    if progressive and bits >> 4:
        return []
    unit = []
    for at in range(5, 5 + 2 * count, 2):
        dc, ac = divmod(scan[at + 1], 16)
        block = _Block(
            huffman.get(dc) if first == 0 else None,
            huffman.get(16 + ac) if last else None,
            first,
            last,
            progressive,
        )
        unit += [block] * (sampling.get(scan[at], 1) if count > 1 else 1)
    return unit


def _read(tables: bytes) -> tuple[dict[int, Table], dict[int, int], bool]:
    """Huffman tables by class and number, blocks per unit by component, and whether it is progressive."""
    huffman: dict[int, Table] = {}
    sampling: dict[int, int] = {}
    progressive = False
    for each in segments(tables, 0):
        body = tables[each.body : each.end]
        if each.marker == DHT:
            huffman.update(_huffman(body))
        elif each.marker in FRAMES:
            progressive = each.marker == PROGRESSIVE
            entries = range(6, 6 + 3 * body[5], 3)
            sampling = {body[at]: (body[at + 1] >> 4) * (body[at + 1] & 15) for at in entries}
    return huffman, sampling, progressive


def _huffman(body: bytes) -> Iterator[tuple[int, Table]]:
    """Each table of a DHT segment, by its class and number."""
    at = 0
    while at + 17 <= len(body):
        counts, symbols = body[at + 1 : at + 17], iter(body[at + 17 : at + 17 + sum(body[at + 1 : at + 17])])
        table: Table = {}
        code = 0
        for length, count in enumerate(counts, 1):
            for _, symbol in zip(range(count), symbols, strict=False):
                table[f"{code:0{length}b}"] = symbol
                code += 1
            code <<= 1
        yield body[at], table
        at += 17 + sum(counts)


def _skip(bits: str, at: int, block: _Block) -> int | None:
    """Behind the block that begins at `at`; None if the bits are none or too few."""
    index = block.first
    if block.dc is not None:
        found = _symbol(bits, at, block.dc)
        if found is None:
            return None
        size, at = found
        at, index = at + size, 1
    while block.ac is not None and index <= block.last:
        found = _symbol(bits, at, block.ac)
        if found is None:
            return None
        (run, size), at = divmod(found[0], 16), found[1]
        if size == 0 and run < 15:  # the end of this block, or of 2^run and more
            at += run if block.progressive else 0
            break
        index += run + 1
        at += size
    return at if at <= len(bits) else None


def _symbol(bits: str, at: int, table: Table) -> tuple[int, int] | None:
    for end in range(at + 1, min(at + 17, len(bits) + 1)):
        if (symbol := table.get(bits[at:end])) is not None:
            return symbol, end
    return None
