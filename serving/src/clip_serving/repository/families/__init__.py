"""The model families that a repository can serve, by their section in deployment.json.

A family is a client-facing ensemble and the models behind it. To add one, write a folder beside `image/`
with its settings and its ModelFamily (base.py), and register it here. Its Python models go into
clip_serving/triton_models; clip_export writes its versions and their spec.json.
"""

from __future__ import annotations

from typing import Any

from clip_serving.repository.families.base import ModelFamily
from clip_serving.repository.families.image import IMAGE
from clip_serving.repository.families.text import TEXT

FAMILIES: dict[str, ModelFamily[Any, Any]] = {IMAGE.name: IMAGE, TEXT.name: TEXT}
