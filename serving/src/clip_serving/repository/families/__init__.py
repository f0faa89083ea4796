"""The model families that a repository can serve, by their section in deployment.json.

A family is a client-facing ensemble and the models behind it. To add one, write a folder beside `image/`
with its settings and its ModelFamily, and register it here.
"""

from __future__ import annotations

from typing import Any

from clip_serving.repository.families.base import ModelFamily
from clip_serving.repository.families.image import IMAGE

FAMILIES: dict[str, ModelFamily[Any, Any]] = {IMAGE.name: IMAGE}
