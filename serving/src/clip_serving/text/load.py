"""Opens the tokenizer that an export stored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from clip_serving import defaults
from clip_serving.defaults import Clean
from clip_serving.text.hugging_face import HuggingFaceTokenizer
from clip_serving.text.tokenizer import Tokenizer, Tokens


def load_tokenizer(
    version: Path, context_length: int, clean: Clean, zeroed_token: int | None = None
) -> Callable[[str], Tokens]:
    """The tokenizer of a version directory of clip_text_tokenize; calls may raise BadText.

    Raises ConfigurationError if its file is missing, damaged or of another context length.
    """
    path = version / defaults.TOKENIZER_FILE
    if path.is_file():
        return HuggingFaceTokenizer(path, context_length, clean, zeroed_token)
    return Tokenizer(version / defaults.VOCABULARY_FILE, context_length, clean)
