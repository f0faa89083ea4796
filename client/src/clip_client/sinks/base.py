"""The Sink protocol, and the rows that a sink stores.

To add a sink, write a class with Sink's members and register it in SINKS in `clip_client/sinks/__init__.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from clip_client.errors import ItemError, SinkError
from clip_client.requests.wire import ModelInfo
from clip_client.results import Embedding, PhotoResult
from clip_client.sources.base import ObjectInfo, ObjectKey

_MODEL = ("model", "pretrained", "weights_sha256", "random_weights", "encoder_version", "image_size")
SETTINGS = ("quality", "apply_exif_orientation", "encoder_precision")
"""The server's settings that change a photo's vector, as named in its model's parameters."""


@dataclass(frozen=True)
class EmbeddedObject:
    """An object and its result: an embedding or an error, with notices and facts about the photo."""

    info: ObjectInfo
    result: PhotoResult

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def outcome(self) -> Embedding | ItemError:
        """The vector, or the error."""
        return self.result.outcome

    @property
    def vector(self) -> Embedding | None:
        """float32 [D]; None if there is an error."""
        return self.result.embedding

    @property
    def error(self) -> ItemError | None:
        return self.result.error


class Sink(Protocol):
    """Stores one row for each object. One thread uses it.

    A run calls open(), write() for each object, then finish() or keep(), and always close(). The
    rows of an interrupted run are kept for the next one, which skips their objects. If an object is
    written again, its new row replaces the old one. Every method raises SinkError if it cannot write.
    """

    @property
    def uri(self) -> str:
        """Where finished rows are, as given to open_sink()."""

    @property
    def unfinished(self) -> str | None:
        """Where the rows of an interrupted run are kept; None if there are none. Works before open(), too."""

    @property
    def local_paths(self) -> tuple[Path, ...]:
        """Local files and folders that the sink writes, for a folder source to leave out."""

    def open(
        self, model: Mapping[str, str], dimension: int, *, overwrite: bool = False, resume: bool = False
    ) -> set[ObjectKey]:
        """Prepares to write vectors of `dimension` numbers; returns the keys of objects embedded before.

        `model`, from describe_model(), is stored with the rows. `overwrite` forgets existing rows once the
        run finishes, `resume` adds to them. Raises SinkError if there are finished rows and neither is set,
        if rows of another model would be mixed (check_same_model()), or if another run is writing.
        """

    def write(self, item: EmbeddedObject) -> None:
        """Takes one row. It need not be stored at once, but should be within seconds."""

    def finish(self) -> dict[str, int]:
        """Stores everything under `uri`; returns the number of rows by error code ("" for no error)."""

    def keep(self) -> dict[str, int]:
        """Stores what was written for a later run to continue; returns the counts as finish() does."""

    def close(self) -> None:
        """Releases locks and connections. Rows that were not stored yet are lost."""


def describe_model(info: ModelInfo) -> dict[str, str]:
    """The model and settings behind a server's vectors, by name; "" for what the server does not report."""
    names = (*_MODEL, *SETTINGS)
    return {"triton_model": info.name, **{name: info.parameters.get(name, "") for name in names}}


def check_same_model(place: str, stored: Mapping[str, str], model: Mapping[str, str]) -> None:
    """Raises SinkError if rows at `place`, made by the model `stored`, must not be mixed with `model`."""
    if stored.get("weights_sha256") != model.get("weights_sha256"):
        raise SinkError(
            f"{place} holds another model's embeddings ({stored.get('model')}, {stored.get('pretrained')}). "
            "Choose another --out, or give --overwrite"
        )
    for name in SETTINGS:
        then, now = stored.get(name), model.get(name)
        if then and now and then != now:
            raise SinkError(
                f"{place} holds embeddings made with {name} {then}, but the server uses {now}. Restart the "
                "server with the old setting, choose another --out, or give --overwrite"
            )


def how_to_continue(*, overwrite: bool) -> str:
    """The advice after an interrupted run, which was started with --overwrite or not."""
    command = "the command with --resume instead of --overwrite" if overwrite else "the same command again"
    return f"run {command} to continue"
