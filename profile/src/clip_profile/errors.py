"""The errors of clip-profile.

ProfileError           photos, options, perf_analyzer or a server that clip-profile cannot measure with
├── RunFolderError     a run folder that cannot be written, read or resumed
├── NoPhotoLeft        every photo of `stages` failed
├── WindowTooShort     no request was answered within one of perf_analyzer's windows
└── ServerGone         a running server (`--url`) died; clip-profile does not restart it

clip_serving.errors has the errors of the embedded server, clip_client.errors those of the client.
"""

from __future__ import annotations


class ProfileError(Exception):
    """Base of all errors that clip-profile raises on purpose; the text says what to do."""


class RunFolderError(ProfileError):
    """A run folder that cannot be written, read or resumed."""


class NoPhotoLeft(ProfileError):  # noqa: N818 - names a state
    """No photo is left that can be embedded."""

    def __init__(self) -> None:
        super().__init__("no photo is left that can be embedded")


class WindowTooShort(ProfileError):  # noqa: N818 - names a state
    """No request, or none of one model, was answered within a window of perf_analyzer."""


class ServerGone(ProfileError):  # noqa: N818 - names a state
    """A running server died. clip-profile did not start it, so it does not restart it."""
