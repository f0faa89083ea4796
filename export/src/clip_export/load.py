"""Loads an open_clip model, and describes in a spec exactly what was loaded."""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import platform
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import open_clip
import torch
from open_clip.transformer import VisionTransformer

from clip_export.arguments import DEFAULT_PRETRAINED
from clip_export.errors import HubUnreachable, LoadError
from clip_preprocess.settings import Interpolation, ResizeMode
from clip_serving.repository.spec import ModelSpec

_HUB_WORDS = ("connect", "resolve", "offline", "timed out", "timeout", "network", "locate the file")


_OWN_WEIGHTS = {"hf-hub:": "hub", "local-dir:": "local"}
"""Models that bring their own weights, and what their spec names instead of a tag."""
_ACTIVATIONS = {
    "GELU": "gelu",
    "GELUTanh": "gelu_tanh",
    "QuickGELU": "quick_gelu",
    "ReLU": "relu",
    "ReLU6": "relu6",
    "SiLU": "silu",
}


@dataclass(frozen=True)
class LoadedModel:
    """An open_clip model in eval mode, fp32, on the CPU, and the spec of its image tower.

    `doubts`: sentences about what the weights do not say and the user has to know.
    """

    model: Any
    spec: ModelSpec
    doubts: tuple[str, ...] = ()

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """open_clip's own embedding of normalized float pixels [N,3,H,W]: L2-normalized [N,D]."""
        with torch.inference_mode():
            return cast(torch.Tensor, self.model.encode_image(pixels, normalize=True))


def load(
    name: str,
    pretrained: str | None = None,
    *,
    seed: int = 0,
    preprocess_from: str | None = None,
    force_quick_gelu: bool = False,
) -> LoadedModel:
    """Loads a model. `pretrained`: an open_clip tag, a checkpoint file, or `none` for seeded random weights.

    A `hf-hub:` or `local-dir:` model brings its own weights and needs no `pretrained`.

    Raises LoadError, and HubUnreachable if the weights must be downloaded and the hub does not answer.
    """
    random = pretrained == "none"
    source = "none" if random else _source(name, pretrained)
    _check_name(name, source, force_quick_gelu=force_quick_gelu)
    with warnings.catch_warnings(), _LoadWarnings() as warned:
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        try:
            model = open_clip.create_model(
                name,
                pretrained=None if random or _brings_weights(name) else source,
                load_weights=not random,
                require_pretrained=not random,
                pretrained_text=not random,
                force_quick_gelu=force_quick_gelu,
            )
        except Exception as error:  # hubs, pickles and towers fail in many ways
            raise _explain(name, source, error) from error
    warned.raise_for(name, source, random=random)
    model.eval().requires_grad_(False)
    label = f"random:seed={seed}" if random else Path(source).name if _is_file(source) else source
    spec = _spec(model, name, label, random=random, preprocess_from=preprocess_from)
    doubts = () if random or force_quick_gelu else _doubts(model, name, source)
    if _brings_weights(name) and pretrained not in (None, "none"):
        doubts += (f"{name} brings its own weights: --pretrained {pretrained} is not used",)
    return LoadedModel(model, spec, doubts)


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


def _brings_weights(name: str) -> bool:
    return name.startswith(tuple(_OWN_WEIGHTS))


def _source(name: str, pretrained: str | None) -> str:
    """Where the weights come from: a tag or a file, or `hub` or `local`."""
    if not _brings_weights(name):
        return pretrained or DEFAULT_PRETRAINED
    if pretrained and _is_file(pretrained):
        raise LoadError(
            f"{name} brings its own weights, so open_clip would ignore {pretrained}. Leave out --pretrained, "
            "or put the checkpoint into a folder with its open_clip_config.json and export local-dir:FOLDER"
        )
    return next(source for prefix, source in _OWN_WEIGHTS.items() if name.startswith(prefix))


def _check_name(name: str, pretrained: str, *, force_quick_gelu: bool) -> None:
    if _brings_weights(name):
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
        _check_activation(name, pretrained, forced=force_quick_gelu)


def _check_activation(name: str, tag: str, *, forced: bool) -> None:
    """Rejects weights in a tower of another activation, which open_clip only warns about.

    A model with QuickGELU in its own config is fine (roberta-ViT-B-32): its tags do not repeat it.
    """
    wants = open_clip.get_pretrained_cfg(name, tag).get("quick_gelu", False)
    has = (open_clip.get_model_config(name) or {}).get("quick_gelu", False)
    if wants and not has and not forced:
        raise LoadError(
            f"the weights {tag!r} were trained with QuickGELU, which {name} does not have: "
            f"use --model {name}-quickgelu"
        )
    if forced and not wants and not has:
        raise LoadError(
            f"the weights {tag!r} of {name} were trained without QuickGELU: leave out --force-quick-gelu"
        )


def _doubts(model: Any, name: str, source: str) -> tuple[str, ...]:
    """Weights trained with QuickGELU have the same keys and shapes as those trained with GELU."""
    is_file = _is_file(source)
    if not is_file and (source != "local" or "quick_gelu" in local_config(name)):
        return ()  # a tag's activation is known, and so is that of a config that names it
    if not isinstance(model.visual, VisionTransformer):
        return ()
    weights = Path(source).name if is_file else f"the config of {name}"
    has, other, fix = "GELU", "QuickGELU, as OpenAI's were and those made from them", "add --force-quick-gelu"
    if activation_of(model.visual) == "quick_gelu":
        plain = name.removesuffix("-quickgelu")
        has, other, fix = "QuickGELU", "GELU, as most of open_clip's own were", f"use --model {plain}"
    return (
        f"{weights} does not say which activation the weights were trained with, and {name} has {has}. "
        f"If they were trained with {other}, the embeddings are wrong without any other error: {fix}",
    )


def local_config(name: str) -> dict[str, Any]:
    """The model's config of a `local-dir:` model."""
    path = Path(name.removeprefix("local-dir:")) / "open_clip_config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["model_cfg"]
    return config


def activation_of(visual: Any) -> str:
    """The tower's activation functions: what a state dict does not hold."""
    found = set()
    for module in visual.modules():
        name = type(module).__name__
        tanh = name == "GELU" and getattr(module, "approximate", "none") == "tanh"
        found.add("gelu_tanh" if tanh else _ACTIVATIONS.get(name, ""))
    return "+".join(sorted(found - {""}))


def _explain(name: str, pretrained: str, error: Exception) -> LoadError:
    text = f"{type(error).__name__}: {error}".lower()
    if "required pretrained weights" in text:
        return LoadError(f"{name} has a config but no weights. Random ones need `--pretrained none`")
    if not _is_file(pretrained) and is_hub_failure(error):
        if _brings_weights(name):
            return HubUnreachable(
                f"{name} must be downloaded, but the hub does not answer. Export a copy of its files with "
                "--model local-dir:FOLDER."
            )
        return HubUnreachable(
            f"the weights {pretrained!r} of {name} must be downloaded, but the hub does not answer. "
            "Give a checkpoint file with --pretrained FILE, or `--pretrained none` for random weights."
        )
    weights = "" if _brings_weights(name) else f" with {pretrained!r}"
    return LoadError(f"{name}{weights} cannot be loaded: {first_line(error)}")


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def is_hub_failure(error: Exception) -> bool:
    """Whether something could not be downloaded."""
    text = f"{type(error).__name__}: {error}".lower()
    return any(word in text for word in _HUB_WORDS)


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
            raise LoadError(f"the weights ({pretrained}) do not match {name}: {self.found[0]}")


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
        activation=activation_of(model.visual),
        tool_versions={
            "open_clip": open_clip.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    )


def _embedding_dim(model: Any, height: int, width: int) -> int:
    with torch.inference_mode():
        return int(model.encode_image(torch.zeros(1, 3, height, width)).shape[-1])
