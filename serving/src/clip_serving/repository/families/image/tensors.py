"""The tensors that the image family's models exchange."""

from __future__ import annotations

from typing import Any

from clip_serving.repository.families.configs import tensor
from clip_serving.repository.spec import ModelSpec

IMAGE = tensor("image", "TYPE_STRING", [1])
VALID = tensor("valid", "TYPE_BOOL", [1])
ERROR = tensor("error", "TYPE_STRING", [1])
NOTICE = tensor("notice", "TYPE_STRING", [1])
FORMAT = tensor("format", "TYPE_STRING", [1])
DIMENSIONS = tensor("dimensions", "TYPE_INT32", [3])
STAGE_SECONDS = tensor("stage_seconds", "TYPE_FP64", [2])
"""FP64, so that a client can tell it from the embedding by its type."""

ABOUT_PHOTOS = [ERROR, NOTICE, FORMAT, DIMENSIONS, STAGE_SECONDS]
"""What preprocess says about each photo, and the ensemble passes on."""


def pixels(spec: ModelSpec) -> dict[str, Any]:
    height, width = spec.image_size
    return tensor("pixels", "TYPE_UINT8", [height, width, 3])


def embedding(spec: ModelSpec) -> dict[str, Any]:
    return tensor("embedding", "TYPE_FP32", [spec.embedding_dim])
