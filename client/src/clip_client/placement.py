"""Where photos are decoded: by the server, by this process with the extra `decode`, or by another server."""

from __future__ import annotations

from collections.abc import Sequence

from clip_client.errors import MissingExtra
from clip_client.requests.placements import OpenDecoder

SERVER, CLIENT = "server", "client"


def require_placement(decode: str | Sequence[str]) -> None:
    """Raises ValueError for what is neither "server" nor "client" nor addresses."""
    if decode in (SERVER, CLIENT):
        return
    for each in [decode] if isinstance(decode, str) else decode:
        if ":" not in each:
            raise ValueError(f"decode must be server, client or host:port, not {each!r}")


def local_decoder() -> OpenDecoder:
    """Opens decoders in this process. Raises MissingExtra."""
    try:
        from clip_client.decode import open_decoder
    except ImportError as error:
        raise MissingExtra(
            f'decode="client" needs clip-triton-preprocess ({error}). In a clone of clip-triton: '
            "pip install './preprocess[fast]' './client[decode]'"
        ) from error
    return open_decoder
