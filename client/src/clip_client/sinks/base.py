"""The Sink protocol, and the rows that a sink stores.

To add a sink, write a class with Sink's members and register it in SINKS in `clip_client/sinks/__init__.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from clip_client.errors import ItemError, SinkError
from clip_client.requests.wire import ModelInfo
from clip_client.results import Embedding, PhotoResult
from clip_client.sources.base import ObjectInfo

_IDENTITY = ("weights_sha256", "activation", "transform")
"""What makes two models the same; servers of early releases report the first alone."""
_MODEL = ("model", "pretrained", *_IDENTITY, "random_weights", "encoder_version", "image_size")
SETTINGS = ("quality", "apply_exif_orientation", "background", "encoder_precision")
"""The server's settings that change a photo's vector, as named in its model's parameters."""
_BEFORE_THE_SETTING = {"background": "none"}
"""The values of settings that older servers and files do not have."""


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


@dataclass(frozen=True)
class StoredRow:
    """What a sink knows of an object: the state in which it was loaded, and its error code, if any."""

    generation: int | None
    size: int
    mtime_ns: int | None
    crc32c: str | None
    error_code: str | None = None
    is_source_assumed: bool = False
    """Whether the row does not name its source, as rows of version 0.1, and is taken as this run's."""

    def is_current(self, item: ObjectInfo) -> bool | None:
        """Whether `item` is still what was loaded; None if only its content can decide that.

        A generation decides. Without one, another size is another content, and so is another CRC32C. An
        equal modification time and size is taken for the same content.
        """
        if (self.generation, self.size) != (item.generation, item.size):
            return False
        if item.generation is not None or self.mtime_ns == item.mtime_ns is not None:
            return True
        if self.crc32c is None:
            return False
        return None if item.crc32c is None else self.crc32c == item.crc32c


@dataclass(frozen=True)
class Existing:
    """What a run does with rows of earlier runs.

    `resume` adds to finished rows, `overwrite` forgets them once the run finishes. `add_source` allows rows
    of several sources.
    """

    resume: bool = False
    overwrite: bool = False
    add_source: bool = False


class Sink(Protocol):
    """Stores one row for each object, known by its source and name. One thread uses it.

    A run calls open(), write() for each object, then finish() or keep(), and always close(). The
    rows of an interrupted run are kept for the next one, which skips their objects. If an object is
    written again, its new row replaces the old one. Every method raises SinkError if it cannot write.
    """

    @property
    def uri(self) -> str:
        """Where finished rows are, as given to open_sink()."""

    @property
    def errors_uri(self) -> str | None:
        """Where the finished rows of failed photos are, if not with the others."""

    @property
    def unfinished(self) -> str | None:
        """Where the rows of an interrupted run are kept; None if there are none. Works before open(), too."""

    @property
    def local_paths(self) -> tuple[Path, ...]:
        """Local files and folders that the sink writes, for a folder source to leave out."""

    def check(self, source: str, existing: Existing) -> None:
        """Raises SinkError if open() would, as far as this can be known without the model."""

    def open(
        self, source: str, model: Mapping[str, str], dimension: int, existing: Existing
    ) -> dict[str, StoredRow]:
        """Prepares to write vectors of `dimension` numbers; returns the rows of `source` by object name.

        `model`, from describe_model(), is stored with the rows. Raises SinkError if there are finished rows
        and `existing` does not say what to do with them, if rows of another model or source would be mixed
        (check_same_model(), check_same_source()), or if another run is writing.
        """

    def write(self, item: EmbeddedObject) -> None:
        """Takes one row. It need not be stored at once, but should be within seconds."""

    def refresh(self, item: ObjectInfo) -> None:
        """The object's row is right: only its modification time has changed. finish() stores it."""

    def remove(self, names: Collection[str]) -> None:
        """Leaves these objects of the source out of the finished rows."""

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


def model_difference(stored: Mapping[str, str], model: Mapping[str, str]) -> str | None:
    """What a place with rows of the model `stored` holds if `model` must not be mixed in; None if it may."""
    known = [name for name in _IDENTITY if name == "weights_sha256" or (stored.get(name) and model.get(name))]
    if any(stored.get(name) != model.get(name) for name in known):
        return f"another model's embeddings ({stored.get('model')}, {stored.get('pretrained')})"
    for name in SETTINGS:
        then, now = (each.get(name) or _BEFORE_THE_SETTING.get(name) for each in (stored, model))
        if then and now and then != now:
            return f"embeddings made with {name} {then}, but the server uses {now}"
    return None


def check_same_model(place: str, stored: Mapping[str, str], model: Mapping[str, str]) -> None:
    """Raises SinkError if rows at `place`, made by the model `stored`, must not be mixed with `model`."""
    if difference := model_difference(stored, model):
        raise SinkError(
            f"{place} holds {difference}. Restart the server with the old model or setting, choose another "
            "--out, or give --overwrite"
        )


def check_same_source(place: str, stored: Collection[str], source: str) -> None:
    """Raises SinkError if `place` has rows of the sources `stored`, but none of `source`."""
    if stored and source not in stored:
        raise SinkError(
            f"{place} holds rows of {', '.join(sorted(stored))}, and this run reads {source}. Choose another "
            "--out, give --add-source to keep both, or --overwrite to replace the rows. If it is the same "
            "source under another path, give its old path as --source-name"
        )


def how_to_continue(*, overwrite: bool) -> str:
    """The advice after an interrupted run, which was started with --overwrite or not."""
    command = "the command with --resume instead of --overwrite" if overwrite else "the same command again"
    return f"run {command} to continue"
