"""The errors of this distribution.

ClipClientError
├── ItemError          one photo: a stable `code` and a text; other photos are not affected
│   └── ServerCrash    the photo crashes servers
├── ServerUnavailable  no answer within the deadline despite retries, or the server rejects this client
│   └── ServerBusy     the server answers, but rejected load until the deadline
├── ServerMismatch     the server is not a clip-triton server, or does not have the model
├── MissingExtra       a part of this client needs an extra that is not installed
├── SourceError        a bucket or folder cannot be listed, or its credentials are rejected
└── SinkError          the output cannot be written
"""

from __future__ import annotations

SERVER_CODES = frozenset({
    "empty", "unsupported_format", "corrupt", "truncated", "too_many_bytes", "too_many_pixels", "too_complex",
    "decode_timeout", "internal",
})  # fmt: skip
"""Codes of an ItemError from the server: clip_preprocess.ErrorCode, which the client does not depend on."""
TEXT_CODES = frozenset({"too_many_bytes", "invalid_text"})
"""Codes of an ItemError of a text, from the server."""
CLIENT_CODES = frozenset({
    "not_found", "forbidden", "load_failed", "load_timeout", "unsupported_encoding", "checksum_mismatch",
    "too_many_bytes", "bad_embedding", "request_failed", "request_timeout",
})  # fmt: skip
"""Codes of an ItemError from the client itself."""

PERMANENT_CODES = frozenset({
    "empty", "unsupported_format", "corrupt", "truncated", "too_many_bytes", "too_many_pixels", "too_complex",
    "unsupported_encoding",
})  # fmt: skip
"""Codes of errors that are in the photo itself: another try fails as well, as long as the photo and the
server's settings are the same."""


class ClipClientError(Exception):
    """Base of all errors that this distribution raises on purpose."""


class ItemError(ClipClientError):
    """One photo has no embedding.

    `code` is in SERVER_CODES or CLIENT_CODES, unless the server is newer than this client; its meaning never
    changes. `text` is for people.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text

    @classmethod
    def from_wire(cls, message: str) -> ItemError:
        """Reads the server's "code: text"."""
        code, _, text = message.partition(": ")
        return cls(code, text or code)


class ServerCrash(ItemError):  # noqa: N818 - reads as the state that it names
    """The photo crashed the server repeatedly, with no other request of this client in flight.

    Its code is `request_failed`. Do not send the photo again.
    """


class ServerUnavailable(ClipClientError):  # noqa: N818 - reads as the state that it names
    """The server did not answer within the deadline, or it rejects this client."""


class ServerBusy(ServerUnavailable):
    """The server is alive and sheds load: its queue was full until the deadline."""


class ServerMismatch(ClipClientError):  # noqa: N818 - reads as the state that it names
    """The server does not have the model, or the model's metadata is not that of a clip-triton model."""


class MissingExtra(ClipClientError):  # noqa: N818 - reads as the state that it names
    """A part of this client needs an extra that is not installed; the text says how to install it."""


class SourceError(ClipClientError):
    """The photos' bucket or folder cannot be read; this affects all of its photos, not a single one."""


class SinkError(ClipClientError):
    """The output cannot be written. The text says where finished rows are kept."""
