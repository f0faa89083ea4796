"""The served tokenizer against open_clip's, id for id."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer

from clip_export.tokenizer import TEXTS, vocabulary
from clip_serving.defaults import Clean
from clip_serving.text.tokenizer import CLEANERS, Tokenizer

_WORDS = (
    *(
        "dog",
        "Beach",
        "it's",
        "WE'LL",
        "2024",
        "über",
        "東京",
        "🐶",
        "🐕\u200d🦺",
        "&amp;lt;",
        "Ã©",
        "½",
        "--",
    ),
    *("'\u017f", "\ufb01", "<start_of_text>", "<END_OF_TEXT>", "lolololololol", "mississippi", "aaaaaaa"),
    *("\u200b", "\x00", "snake_case"),
)
_text = st.one_of(
    st.text(max_size=80),
    st.text("ab", max_size=200),
    st.lists(st.sampled_from(_WORDS), max_size=40).map(" ".join),
    st.lists(st.sampled_from(_WORDS), max_size=10).map("".join),
)


@cache
def tokenizers(clean: Clean) -> tuple[Tokenizer, SimpleTokenizer]:
    return Tokenizer(vocabulary(), 77, clean), SimpleTokenizer(clean=clean)


@pytest.mark.parametrize("clean", CLEANERS)
@settings(max_examples=300)
@given(text=_text)
def test_ids_are_open_clips(clean: Clean, text: str) -> None:
    ours, theirs = tokenizers(clean)
    assert ours(text).ids.tolist() == theirs(text)[0].tolist()


@pytest.mark.parametrize("clean", CLEANERS)
def test_the_texts_that_an_export_checks(clean: Clean) -> None:
    ours, theirs = tokenizers(clean)
    assert [ours(text).ids.tolist() for text in TEXTS] == theirs(list(TEXTS)).tolist()
    assert [ours(text).is_cut for text in TEXTS].count(True) == 1


def test_the_texts_tell_the_ways_of_cleaning_apart() -> None:
    found = {tuple(map(tuple, tokenizers(clean)[1](list(TEXTS)).tolist())) for clean in CLEANERS}
    assert len(found) == len(CLEANERS)
