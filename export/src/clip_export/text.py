"""The text tower of an open_clip model: its spec, its tokenizer, and open_clip's own embeddings of texts."""

from __future__ import annotations

import base64
import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer, default_bpe
from torch import nn

from clip_export.errors import NoTextTower
from clip_export.load import LoadedModel, activation_of
from clip_serving.repository.spec import TextSpec
from clip_serving.text.tokenizer import CLEANERS, Tokenizer

Floats = npt.NDArray[np.float32]

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
"""What a text tower and its tokenizer are verified with: they tell open_clip's ways of cleaning apart."""


@dataclass(frozen=True)
class TextTower:
    """A model's text tower; `tokenizer` is open_clip's own."""

    model: Any
    spec: TextSpec
    tokenizer: SimpleTokenizer

    def encode(self, texts: list[str]) -> Floats:
        """open_clip's own embeddings: L2-normalized float32 [N,D]."""
        with torch.inference_mode():
            rows: Floats = self.model.encode_text(self.tokenizer(texts), normalize=True).numpy()
        return rows

    def tokens(self, texts: list[str]) -> npt.NDArray[np.int32]:
        """The ids of the served tokenizer, int32 [N,L]; load_text() compared it with open_clip's."""
        tokenizer = Tokenizer(vocabulary(), self.spec.context_length, self.spec.clean)
        return np.stack([tokenizer(text).ids for text in texts])

    def module(self) -> nn.Module:
        """A copy of the model without its image tower."""
        return _without_image_tower(self.model)


def _without_image_tower(model: Any) -> nn.Module:
    return cast(nn.Module, copy.deepcopy(model, {id(model.visual): nn.Identity()}))


def vocabulary() -> Path:
    """The file of CLIP's merges in open_clip's wheel."""
    return Path(default_bpe())


def load_text(loaded: LoadedModel) -> TextTower:
    """The text tower of a loaded model. Raises NoTextTower, which says why it cannot be served."""
    name = loaded.spec.model
    if not hasattr(loaded.model, "encode_text") or getattr(loaded.model, "text", nn.Module()) is None:
        raise NoTextTower(f"{name} has no text tower")
    tokenizer = _tokenizer(name)
    length = int(tokenizer.context_length)
    wanted = tokenizer(list(TEXTS)).numpy()
    for clean in CLEANERS:
        ours = Tokenizer(vocabulary(), length, clean)
        if all((ours(text).ids == row).all() for text, row in zip(TEXTS, wanted, strict=True)):
            break
    else:
        raise NoTextTower(f"the token ids of {name}'s tokenizer differ from those that would be served")
    bias = getattr(loaded.model, "logit_bias", None)
    spec = TextSpec(
        model=name,
        pretrained=loaded.spec.pretrained,
        embedding_dim=loaded.spec.embedding_dim,
        random_weights=loaded.spec.random_weights,
        weights_sha256=loaded.spec.weights_sha256,
        activation=activation_of(_without_image_tower(loaded.model)),
        tool_versions=loaded.spec.tool_versions,
        context_length=length,
        clean=clean,
        logit_scale=float(loaded.model.logit_scale.exp()),
        logit_bias=None if bias is None else float(bias),
        reference_text=REFERENCE_TEXT,
    )
    tower = TextTower(loaded.model, spec, tokenizer)
    (row,) = tower.encode([REFERENCE_TEXT])
    encoded = base64.b64encode(row.astype("<f4").tobytes()).decode()
    return replace(tower, spec=replace(spec, reference_embedding=encoded))


def _tokenizer(name: str) -> SimpleTokenizer:
    try:
        found = open_clip.get_tokenizer(name)
    except Exception as error:  # a tokenizer from a hub fails in as many ways as a model
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise NoTextTower(f"the tokenizer of {name} cannot be loaded: {first}") from error
    if not isinstance(found, SimpleTokenizer):
        raise NoTextTower(f"{name} uses {type(found).__name__}; only CLIP's own tokenizer can be served")
    if found.reduction_fn is not None:
        raise NoTextTower(f"the tokenizer of {name} shortens texts at random, which cannot be served")
    return found
