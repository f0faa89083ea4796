"""What can go wrong between a photo and its embedding.

ClipClientError
├── ItemError          one photo: a stable `code` and a text; its neighbours are not concerned
├── ServerUnavailable  no answer within the deadline, in spite of retries; or this client is turned away
│   └── ServerBusy     it answers, but has refused load until the deadline
├── ServerMismatch     a server answers, but it is not one of ours; check() tells whether it embeds rightly
├── SourceError        a bucket or folder cannot be listed, or its credentials are refused
└── SinkError          the output cannot be written
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


class ClipClientError(Exception):
    """Base of all errors that this distribution raises on purpose."""


class ItemError(ClipClientError):
    """One photo has no embedding.

    `code` is the server's (`empty`, `unsupported_format`, `corrupt`, `truncated`, `too_many_bytes`,
    `too_many_pixels`, `too_complex`, `decode_timeout`, `internal`) or the client's (`not_found`,
    `forbidden`, `checksum_mismatch`, `load_failed`, `too_many_bytes`, `bad_embedding`, `request_failed`).

    `embedding` is None, or the float32 vector [D] of what could be read of the photo, where the server
    was told to keep truncated ones.
    """

    def __init__(self, code: str, text: str, embedding: npt.NDArray[np.float32] | None = None) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text
        self.embedding = embedding

    @classmethod
    def from_wire(cls, message: str, embedding: npt.NDArray[np.float32] | None = None) -> ItemError:
        """Reads the server's "code: text"."""
        code, _, text = message.partition(": ")
        return cls(code, text or code, embedding)


class ServerUnavailable(ClipClientError):  # noqa: N818 - reads as the state that it names
    """The server did not answer within the deadline, or it does not let this client in."""


class ServerBusy(ServerUnavailable):
    """The server is alive and sheds load: its queue was full until the deadline."""


class ServerMismatch(ClipClientError):  # noqa: N818 - reads as the state that it names
    """The server has no such model, or its metadata is not that of clip-triton's."""


class SourceError(ClipClientError):
    """The photos' bucket or folder cannot be read: none of its photos, not one."""


class SinkError(ClipClientError):
    """The output cannot be written; what was finished is kept where the text says."""
