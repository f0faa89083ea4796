"""Loads an open_clip model, and describes in a spec exactly what was loaded."""

from __future__ import annotations

import difflib
import hashlib
import logging
import platform
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import open_clip
import torch

from clip_export.errors import HubUnreachable, LoadError
from clip_preprocess.settings import Interpolation, ResizeMode
from clip_serving.repository.spec import ModelSpec

_HUB_WORDS = ("connect", "resolve", "offline", "timed out", "timeout", "network", "locate the file")


@dataclass(frozen=True)
class LoadedModel:
    """An open_clip model in eval mode, fp32, on the CPU, and the spec of its image tower."""

    model: Any
    spec: ModelSpec

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """open_clip's own embedding of normalized float pixels [N,3,H,W]: L2-normalized [N,D]."""
        with torch.inference_mode():
            return cast(torch.Tensor, self.model.encode_image(pixels, normalize=True))


def load(name: str, pretrained: str, *, seed: int = 0, preprocess_from: str | None = None) -> LoadedModel:
    """Loads a model. `pretrained`: an open_clip tag, a checkpoint file, or `none` for seeded random weights.

    Raises LoadError, and HubUnreachable if the weights must be downloaded and the hub does not answer.
    """
    random = pretrained == "none"
    _check_name(name, pretrained)
    with warnings.catch_warnings(), _LoadWarnings() as warned:
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        try:
            model = open_clip.create_model(name, pretrained=None if random else pretrained)
        except Exception as error:  # hubs, pickles and towers fail in many ways
            raise _explain(name, pretrained, error) from error
    warned.raise_for(name, pretrained, random=random)
    model.eval().requires_grad_(False)
    label = f"random:seed={seed}" if random else Path(pretrained).name if _is_file(pretrained) else pretrained
    return LoadedModel(model, _spec(model, name, label, random=random, preprocess_from=preprocess_from))


def weights_sha256(model: Any) -> str:
    """Digest of the state dict: for each key in sorted order its name, dtype, shape and bytes."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        tensor = value.detach().cpu().contiguous()
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _is_file(pretrained: str) -> bool:
    return Path(pretrained).is_file()


def _check_name(name: str, pretrained: str) -> None:
    if name.startswith(("hf-hub:", "local-dir:")):
        return
    if name not in open_clip.list_models():
        close = difflib.get_close_matches(name, open_clip.list_models(), n=5, cutoff=0.5)
        raise LoadError(f"open_clip has no model {name!r}. Similar names: {', '.join(close) or 'none'}")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained != "none" and pretrained not in tags and not _is_file(pretrained):
        raise LoadError(
            f"{pretrained!r} is neither a file nor a pretrained tag of {name}, which has: "
            f"{', '.join(tags) or 'no tags'} (or `none` for random weights)"
        )
    if pretrained in tags:
        _check_activation(name, pretrained)


def _check_activation(name: str, tag: str) -> None:
    """Rejects weights trained with QuickGELU in a tower without it, which open_clip only warns about.

    The reverse is fine: some models of open_clip (roberta-ViT-B-32) have QuickGELU in their own config, and
    their tags do not repeat it.
    """
    wants = open_clip.get_pretrained_cfg(name, tag).get("quick_gelu", False)
    if wants and not (open_clip.get_model_config(name) or {}).get("quick_gelu", False):
        raise LoadError(
            f"the weights {tag!r} were trained with QuickGELU, which {name} does not have: "
            f"use --model {name}-quickgelu"
        )


def _explain(name: str, pretrained: str, error: Exception) -> LoadError:
    text = f"{type(error).__name__}: {error}".lower()
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if not _is_file(pretrained) and any(word in text for word in _HUB_WORDS):
        return HubUnreachable(
            f"the weights {pretrained!r} of {name} must be downloaded, but the hub does not answer. "
            "Give a checkpoint file with --pretrained FILE, or `--pretrained none` for random weights."
        )
    return LoadError(f"{name} with {pretrained!r} cannot be loaded: {first}")


class _LoadWarnings(logging.Handler):
    """Collects open_clip's warnings about keys that do not match: the loaded model would be wrong."""

    _words = ("missing keys", "unexpected keys", "incompatible keys")

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if any(word in message.lower() for word in self._words):
            self.found.append(message)

    def __enter__(self) -> _LoadWarnings:
        self._root = logging.getLogger()
        self._handlers = self._root.handlers[:]
        self._root.handlers[:] = [self]
        # It logs each of its many retries; clip-export reports the outcome once.
        logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
        return self

    def __exit__(self, *_: object) -> None:
        self._root.handlers[:] = self._handlers

    def raise_for(self, name: str, pretrained: str, *, random: bool) -> None:
        if self.found and not random:
            raise LoadError(f"the weights {pretrained!r} do not match {name}: {self.found[0]}")


def _spec(model: Any, name: str, label: str, *, random: bool, preprocess_from: str | None) -> ModelSpec:
    preprocess = dict(model.visual.preprocess_cfg)
    if preprocess_from is not None:
        tag = open_clip.get_pretrained_cfg(name, preprocess_from)
        if not tag:
            raise LoadError(f"--preprocess-from: {name} has no pretrained tag {preprocess_from!r}")
        preprocess.update(
            {key: tag[key] for key in ("mean", "std", "interpolation", "resize_mode") if key in tag}
        )
    size = preprocess["size"]
    height, width = (size, size) if isinstance(size, int) else size
    fill = preprocess["fill_color"]
    return ModelSpec(
        model=name,
        pretrained=label,
        image_size=(height, width),
        mean=tuple(preprocess["mean"]),
        std=tuple(preprocess["std"]),
        interpolation=cast(Interpolation, preprocess["interpolation"]),
        resize_mode=cast(ResizeMode, preprocess["resize_mode"]),
        fill_color=fill if isinstance(fill, int) else fill[0],
        embedding_dim=_embedding_dim(model, height, width),
        random_weights=random,
        weights_sha256=weights_sha256(model),
        tool_versions={
            "open_clip": open_clip.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    )


def _embedding_dim(model: Any, height: int, width: int) -> int:
    with torch.inference_mode():
        return int(model.encode_image(torch.zeros(1, 3, height, width)).shape[-1])
