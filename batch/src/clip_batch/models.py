"""The model behind an output's vectors: one file per epoch, which the first worker writes.

Vectors of two models are not comparable. A job's output has one model, until a plan with --replace-model
begins a new epoch, in which everything is embedded again.
"""

from __future__ import annotations

from collections.abc import Mapping

from clip_batch.errors import ModelMismatch
from clip_batch.layout import MODELS
from clip_batch.storage import Storage, read_json, write_json
from clip_client.sinks.base import model_difference


def read_model(storage: Storage, epoch: int) -> dict[str, str] | None:
    """The model's description, from describe_model(); None if the epoch has no vectors yet."""
    try:
        return read_json(storage, _name(epoch), dict)
    except FileNotFoundError:
        return None


def claim_model(storage: Storage, epoch: int, model: Mapping[str, str]) -> None:
    """Makes `model` the epoch's if it has none yet. Raises ModelMismatch if it has another one."""
    stored = read_model(storage, epoch)
    if stored is None:
        write_json(storage, _name(epoch), model)
        stored = read_model(storage, epoch) or {}
    if difference := model_difference(stored, model):
        raise ModelMismatch(
            f"{storage.uri} holds {difference}. Use a server with the old model and settings, choose another "
            "--out, or embed everything again with: clip-batch plan --replace-model"
        )


def _name(epoch: int) -> str:
    return f"{MODELS}/{epoch:06d}.json"
