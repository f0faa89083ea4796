"""The errors of an export.

ExportError            any of these; `exit_status` is the command's
├── LoadError          the model or its weights cannot be had, or do not fit
├── HubUnreachable     the weights lie on a hub that does not answer
├── GraphError         the model cannot be exported
├── ParityError        an artefact's embeddings differ from open_clip's
└── NotRendered        the version is in the repository, and its configs could not be written
"""

from __future__ import annotations

from pathlib import Path


class ExportError(Exception):
    """Base of all errors that this distribution raises on purpose."""

    exit_status = 2


class LoadError(ExportError):
    """open_clip does not know the model, or its weights do not fit it."""


class HubUnreachable(LoadError):  # noqa: N818 - reads as the state that it names
    """The weights have to be downloaded, and cannot be."""


class GraphError(ExportError):
    """The tower holds something that the exporter cannot express; the text says what."""


class ParityError(ExportError):
    """What was written does not embed as open_clip does; nothing has been replaced."""

    exit_status = 1


class NotRendered(ExportError):  # noqa: N818 - reads as the state that it names
    """The version is in the repository, and its configs are not, or not all of them."""

    def __init__(self, version: int, repository: Path, cause: BaseException) -> None:
        stopped = isinstance(cause, KeyboardInterrupt)
        super().__init__(
            f"version {version} is in {repository}, but not all configs were rendered for it "
            f"({'stopped' if stopped else cause}). Render them before a server starts, with the settings "
            f"that you gave: clip-export --activate {version} --repository {repository}"
        )
        self.exit_status = 130 if stopped else 2
