"""open_clip's tokenizer of a model, and the files from which a server makes the same token ids."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import open_clip
import torch
from open_clip.tokenizer import HFTokenizer, SigLipTokenizer, SimpleTokenizer, default_bpe, get_clean_fn

from clip_export.errors import NoTextTower
from clip_export.load import first_line, is_hub_failure, local_config
from clip_serving import defaults
from clip_serving.defaults import Clean
from clip_serving.text.load import load_tokenizer
from clip_serving.text.tokenizer import Tokens

REFERENCE_TEXT = "a photo of a cat"
"""The text that a server must embed correctly before it is ready."""
TEXTS = (
    REFERENCE_TEXT,
    "",
    "Two people at sunset, 2024!",
    "it's the DOG's ball; they'll don't mind",
    "naïve café — 東京の夜 🐶🐕‍🦺",
    "&lt;b&gt;Tom &amp;amp; Jerry&lt;/b&gt; snake_case <start_of_text>",
    "Ã©tÃ© à la plage",
    "a very long caption " * 40,
)
"""What a text tower and its tokenizer are verified with: they distinguish open_clip's ways of cleaning."""
_FILES = "tokenizer.json and tokenizer_config.json"


@dataclass(frozen=True)
class ModelTokenizer:
    """A model's tokenizer. The served one makes the same ids of TEXTS and of the special tokens.

    `files`, by name, are those of a version directory of clip_text_tokenize.
    """

    reference: Callable[[list[str]], torch.Tensor]
    served: Callable[[str], Tokens]
    files: Mapping[str, bytes]
    context_length: int
    clean: Clean
    zeroed_token: int | None

    def tokens(self, texts: list[str]) -> npt.NDArray[np.int32]:
        """The ids of the served tokenizer, int32 [N,L]."""
        return np.stack([self.served(text).ids for text in texts])


def tokenizer_of(name: str) -> ModelTokenizer:
    """The tokenizer of an open_clip model. Raises NoTextTower, which says why it cannot be served."""
    found = _open_clips(name)
    length, clean = int(found.context_length), _clean(found)
    backend = getattr(found, "tokenizer", None)
    texts = [*TEXTS, " ".join(getattr(backend, "all_special_tokens", []))]
    try:
        wanted = found(texts).numpy()
    except Exception as error:  # the tokenizer of a model is not ours; some cannot pad
        raise NoTextTower(f"the tokenizer of {name} fails: {first_line(error)}") from error
    files = _files(name, found)  # after the call, which sets its truncation and padding
    zeroed = int(backend.sep_token_id) if backend and getattr(found, "strip_sep_token", False) else None
    with tempfile.TemporaryDirectory() as folder:
        for file, content in files.items():
            (Path(folder) / file).write_bytes(content)
        served = load_tokenizer(Path(folder), length, clean, zeroed)
    result = ModelTokenizer(found, served, files, length, clean, zeroed)
    if not np.array_equal(result.tokens(texts), wanted):
        raise NoTextTower(f"the token ids of {name}'s tokenizer differ from those that would be served")
    return result


def hub_tokenizer(name: str) -> str:
    """The Hugging Face repository that has the model's tokenizer; empty for CLIP's own."""
    if name.startswith("hf-hub:"):
        return name.removeprefix("hf-hub:")
    config = local_config(name) if name.startswith("local-dir:") else open_clip.get_model_config(name) or {}
    return str(config.get("text_cfg", {}).get("hf_tokenizer_name", ""))


def _open_clips(name: str) -> Any:
    try:
        found = open_clip.get_tokenizer(name)
    except Exception as error:  # a tokenizer from a hub fails in as many ways as a model
        raise NoTextTower(_why(name, error)) from error
    if getattr(found, "reduction_fn", None) is not None:
        raise NoTextTower(f"the tokenizer of {name} shortens texts at random, which cannot be served")
    if getattr(found, "tokenizer_mode", ""):
        raise NoTextTower(f"the tokenizer mode {found.tokenizer_mode!r} of {name} cannot be served")
    return found


def _why(name: str, error: Exception) -> str:
    """Why the tokenizer cannot be loaded, and what to do."""
    hub = hub_tokenizer(name)
    if hub and importlib.util.find_spec("transformers") is None:
        return (
            f"the tokenizer of {name} needs the package transformers, which is not installed. In a clone of "
            "clip-triton: pip install './export[hugging-face]'"
        )
    if (
        name.startswith("local-dir:")
        and not (folder := Path(name.removeprefix("local-dir:"))).joinpath(defaults.TOKENIZER_FILE).is_file()
    ):
        return f"{folder} has no {defaults.TOKENIZER_FILE}. Copy {_FILES} of {hub} into it"
    if hub and is_hub_failure(error):
        return (
            f"{_FILES} of {hub} must be downloaded, but the hub does not answer. Put copies of them in a "
            f"folder, beside open_clip_config.json and the weights of {name}, and export local-dir:FOLDER"
        )
    return f"the tokenizer of {name} cannot be loaded: {first_line(error)}"


def _clean(tokenizer: Any) -> Clean:
    if isinstance(tokenizer, SigLipTokenizer):
        return "canonicalize"
    return next(name for name in get_args(Clean) if get_clean_fn(name) is tokenizer.clean_fn)


def _files(name: str, tokenizer: Any) -> dict[str, bytes]:
    if isinstance(tokenizer, SimpleTokenizer):
        return {defaults.VOCABULARY_FILE: vocabulary().read_bytes()}
    backend = getattr(tokenizer.tokenizer, "backend_tokenizer", None)
    if not isinstance(tokenizer, HFTokenizer | SigLipTokenizer) or backend is None:
        raise NoTextTower(f"the tokenizer of {name} has no {defaults.TOKENIZER_FILE}, and cannot be served")
    return {defaults.TOKENIZER_FILE: backend.to_str().encode()}


def vocabulary() -> Path:
    """The file of CLIP's merges in open_clip's wheel."""
    return Path(default_bpe())
