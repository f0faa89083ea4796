"""Which side decodes photos: the server, or this process with the extra `decode`."""

from __future__ import annotations

from typing import get_args

from clip_client import defaults
from clip_client.errors import MissingExtra
from clip_client.requests.pixels import OpenDecoder


def decoder_of(decode: str) -> OpenDecoder | None:
    """None for "server". Raises MissingExtra, and ValueError for another placement."""
    if decode not in get_args(defaults.Placement):
        raise ValueError(f"decode must be one of {', '.join(get_args(defaults.Placement))}, not {decode!r}")
    if decode == "server":
        return None
    try:
        from clip_client.decode import open_decoder
    except ImportError as error:
        raise MissingExtra(
            f'decode="client" needs clip-triton-preprocess ({error}). In a clone of clip-triton: '
            "pip install './preprocess[fast]' './client[decode]'"
        ) from error
    return open_decoder
