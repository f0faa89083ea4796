"""The text tower of an open_clip model: its spec, and open_clip's own embeddings of texts."""

from __future__ import annotations

import base64
import copy
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from open_clip.hf_model import HFTextEncoder
from torch import nn

from clip_export.errors import NoTextTower
from clip_export.load import LoadedModel, activation_of
from clip_export.tokenizer import REFERENCE_TEXT, ModelTokenizer, tokenizer_of
from clip_serving.repository.spec import TextSpec

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TextTower:
    """A model's text tower and its tokenizer."""

    model: Any
    spec: TextSpec
    tokenizer: ModelTokenizer

    def encode(self, texts: list[str]) -> Floats:
        """open_clip's own embeddings: L2-normalized float32 [N,D]."""
        with torch.inference_mode():
            rows: Floats = self.model.encode_text(self.tokenizer.reference(texts), normalize=True).numpy()
        return rows

    def module(self) -> nn.Module:
        """A copy of the model without its image tower."""
        return _without_image_tower(self.model)


def _without_image_tower(model: Any) -> nn.Module:
    return cast(nn.Module, copy.deepcopy(model, {id(model.visual): nn.Identity()}))


def load_text(loaded: LoadedModel) -> TextTower:
    """The text tower of a loaded model. Raises NoTextTower, which says why it cannot be served."""
    name = loaded.spec.model
    if not hasattr(loaded.model, "encode_text") or getattr(loaded.model, "text", nn.Module()) is None:
        raise NoTextTower(f"{name} has no text tower")
    if isinstance(getattr(loaded.model, "text", None), HFTextEncoder):
        raise NoTextTower(
            f"the text tower of {name} is a model of transformers; only open_clip's own can be served"
        )
    tokenizer = tokenizer_of(name)
    bias = getattr(loaded.model, "logit_bias", None)
    spec = TextSpec(
        model=name,
        pretrained=loaded.spec.pretrained,
        embedding_dim=loaded.spec.embedding_dim,
        random_weights=loaded.spec.random_weights,
        weights_sha256=loaded.spec.weights_sha256,
        activation=activation_of(_without_image_tower(loaded.model)),
        tool_versions=loaded.spec.tool_versions,
        context_length=tokenizer.context_length,
        clean=tokenizer.clean,
        zeroed_token=tokenizer.zeroed_token,
        logit_scale=float(loaded.model.logit_scale.exp()),
        logit_bias=None if bias is None else float(bias),
        reference_text=REFERENCE_TEXT,
    )
    tower = TextTower(loaded.model, spec, tokenizer)
    (row,) = tower.encode([REFERENCE_TEXT])
    encoded = base64.b64encode(row.astype("<f4").tobytes()).decode()
    return replace(tower, spec=replace(spec, reference_embedding=encoded))
