"""The tensors that the text family's models exchange."""

from __future__ import annotations

from typing import Any

from clip_serving.repository.families.configs import tensor
from clip_serving.repository.spec import TextSpec

TEXT = tensor("text", "TYPE_STRING", [1])
VALID = tensor("valid", "TYPE_BOOL", [1])
ERROR = tensor("error", "TYPE_STRING", [1])
NOTICE = tensor("notice", "TYPE_STRING", [1])


def tokens(spec: TextSpec) -> dict[str, Any]:
    return tensor("tokens", "TYPE_INT32", [spec.context_length])


def embedding(spec: TextSpec) -> dict[str, Any]:
    return tensor("embedding", "TYPE_FP32", [spec.embedding_dim])
