"""The errors of an export.

ExportError            any of these; `exit_status` is the command's
├── LoadError          the model or its weights cannot be had, or do not fit
├── HubUnreachable     the weights lie on a hub that does not answer
├── GraphError         the model cannot be exported
└── ParityError        an artefact's embeddings differ from open_clip's
"""

from __future__ import annotations


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
