"""Text to token ids, exactly as open_clip's tokenizer; independent of Triton and of open_clip."""

from __future__ import annotations

import functools
import gzip
import html
import string
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ftfy
import numpy as np
import numpy.typing as npt
import regex

from clip_serving import defaults
from clip_serving.defaults import Clean
from clip_serving.errors import ConfigurationError
from clip_serving.text.byte_pairs import END_OF_WORD, byte_symbols, merge

_MERGES = 49152 - 256 - 2
"""CLIP's vocabulary: 256 bytes, the same as ends of words, these merges, and the two special tokens."""
_LONGEST_CACHED = 40
"""Characters: longer words are rare."""
_START, _END = "<start_of_text>", "<end_of_text>"
_WORD = rf"{_START}|{_END}|'s|'t|'re|'ve|'m|'ll|'d|[\p{{L}}]+|[\p{{N}}]|[^\s\p{{L}}\p{{N}}]+"


class BadText(ValueError):  # noqa: N818 - reads as the state that it names
    """The text cannot be embedded; the message begins with its code."""


@dataclass(frozen=True)
class Tokens:
    """int32 `ids` [L], padded; `is_cut` if the text has more tokens than fit."""

    ids: npt.NDArray[np.int32]
    is_cut: bool = False


class Tokenizer:
    """CLIP's byte-pair encoder. Safe to use from several threads."""

    def __init__(self, vocabulary: Path, context_length: int, clean: Clean = "lower") -> None:
        """`vocabulary` is the gzip file of merges that is part of open_clip.

        Raises ConfigurationError if it cannot be read.
        """
        try:
            lines = gzip.decompress(vocabulary.read_bytes()).decode("utf-8").split("\n")
        except (OSError, EOFError, ValueError) as error:
            raise ConfigurationError(f"cannot read the vocabulary {vocabulary}: {error}") from error
        merges = [(left, right) for left, _, right in (line.partition(" ") for line in lines[1:][:_MERGES])]
        if len(merges) != _MERGES:
            raise ConfigurationError(f"{vocabulary} has {len(merges)} merges instead of {_MERGES}")
        self._bytes = byte_symbols()
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        single = list(self._bytes.values())
        words = [*single, *(symbol + END_OF_WORD for symbol in single), *map("".join, merges), _START, _END]
        self._ids = {word: number for number, word in enumerate(words)}
        self._length = context_length
        self._clean = CLEANERS[clean]
        self._pattern = regex.compile(_WORD, regex.IGNORECASE)
        self._cached = functools.lru_cache(defaults.CACHED_WORDS)(self._encode_word)

    def __call__(self, text: str) -> Tokens:
        """The ids of `text` between the start and end tokens; like open_clip, cuts off what does not fit."""
        most = self._length - 2
        found: list[int] = []
        for match in self._pattern.finditer(self._clean(text)):
            word = match.group()
            found += self._cached(word) if len(word) <= _LONGEST_CACHED else self._encode_word(word)
            if len(found) > most:
                break
        ids = np.zeros(self._length, np.int32)
        ids[: min(len(found), most) + 2] = [self._ids[_START], *found[:most], self._ids[_END]]
        return Tokens(ids, len(found) > most)

    def _encode_word(self, word: str) -> tuple[int, ...]:
        if word in (_START, _END):
            return (self._ids[word],)
        symbols = [self._bytes[byte] for byte in word.encode("utf-8")]
        symbols[-1] += END_OF_WORD
        return tuple(self._ids[symbol] for symbol in merge(symbols, self._ranks))


def _fixed(text: str) -> str:
    """Repairs mis-decoded UTF-8, and replaces HTML entities, which captions often have twice over."""
    return html.unescape(html.unescape(ftfy.fix_text(text))).strip()


def _one_line(text: str) -> str:
    return " ".join(text.split())


_PUNCTUATION = str.maketrans("", "", string.punctuation)

CLEANERS: dict[Clean, Callable[[str], str]] = {
    "lower": lambda text: _one_line(_fixed(text)).lower(),
    "whitespace": lambda text: _one_line(_fixed(text)),
    "canonicalize": lambda text: _one_line(_fixed(text).replace("_", " ").translate(_PUNCTUATION).lower()),
}
