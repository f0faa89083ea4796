"""The errors of an export.

ExportError            any of these; `exit_status` is the command's
├── LoadError          the model or its weights are not available, or do not match
│   ├── HubUnreachable the weights must be downloaded, and the hub does not answer
│   └── NoTextTower    the model has no text tower, or one that cannot be served
├── GraphError         the model cannot be exported
├── ParityError        an artifact's embeddings differ from open_clip's
└── NotRendered        the version is in the repository, but its configs could not be written
"""

from __future__ import annotations

from pathlib import Path


class ExportError(Exception):
    """Base of all errors that this distribution raises on purpose."""

    exit_status = 2


class LoadError(ExportError):
    """open_clip does not know the model, or its weights do not match it."""


class HubUnreachable(LoadError):  # noqa: N818 - reads as the state that it names
    """The weights must be downloaded, and the hub does not answer."""

    exit_status = 3


class NoTextTower(LoadError):  # noqa: N818 - reads as the state that it names
    """The model has no text tower, or its tokenizer cannot be served."""


class GraphError(ExportError):
    """The tower contains something that the exporter cannot express; the text says what."""


class ParityError(ExportError):
    """A written artifact does not embed like open_clip; nothing was published."""

    exit_status = 1


class NotRendered(ExportError):  # noqa: N818 - reads as the state that it names
    """The version is in the repository, but not all of its configs are."""

    def __init__(self, version: int, repository: Path, cause: BaseException) -> None:
        stopped = isinstance(cause, KeyboardInterrupt)
        super().__init__(
            f"version {version} is in {repository}, but its configs were not rendered "
            f"({'stopped' if stopped else cause}). Render them, with the same settings, before you start a "
            f"server: clip-export --activate {version} --repository {repository}"
        )
        self.exit_status = 130 if stopped else 2
