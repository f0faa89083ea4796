"""The model families that a repository can serve, by their section in deployment.json.

A family is a client-facing ensemble and the models behind it. To add one, write a folder beside `image/`
with its settings and its ModelFamily (base.py), and register it here. Its Python models go into
clip_serving/triton_models; clip_export writes its versions and their spec.json.
"""

from __future__ import annotations

import re
from typing import Any

from clip_serving.errors import ConfigurationError
from clip_serving.repository.families.base import ModelFamily
from clip_serving.repository.families.image import IMAGE
from clip_serving.repository.families.text import TEXT
from clip_serving.repository.settings import unknown_name

FAMILIES: dict[str, ModelFamily[Any, Any]] = {IMAGE.name: IMAGE, TEXT.name: TEXT}
"""Without a name; a repository can serve further models of each beside them, whose sets have names."""


def families(set_name: str) -> list[ModelFamily[Any, Any]]:
    """All families of the models that were exported with `--name set_name`; "" are those without a name."""
    return [type(family)(set_name) for family in FAMILIES.values()]


def family_of(section: str) -> ModelFamily[Any, Any]:
    """Of a section of deployment.json, such as `image` or `image_large`. Raises ConfigurationError."""
    kind, underscore, set_name = section.partition("_")
    if kind not in FAMILIES:
        raise ConfigurationError(unknown_name(section, section, list(FAMILIES)))
    return type(FAMILIES[kind])(check_set_name(set_name) if underscore else "")


def check_set_name(text: str) -> str:
    """`text` if it can name a set of models. Raises ConfigurationError."""
    if not re.fullmatch("[a-z0-9]{1,32}", text) or text in _STEPS:
        raise ConfigurationError(
            f"{text!r} cannot name a set of models. Allowed: up to 32 of a-z and 0-9, and not "
            f"{', '.join(sorted(_STEPS))}"
        )
    return text


_STEPS = {model.rpartition("_")[2] for family in FAMILIES.values() for model in family.models[1:]}
"""`clip_image_encoder` is the encoder, and not the ensemble of a set named encoder."""
