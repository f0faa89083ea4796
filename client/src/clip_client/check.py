"""Is a server right? It is asked to embed the reference picture that its own config carries.

A server can answer every health probe and still embed wrongly: another preprocess, another file of
weights, a driver that computes badly. The expected vector was made by open_clip at export. It can also
embed rightly with all of its Python processes but one, which Triton does not start again.
"""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass

import numpy as np

from clip_client import defaults
from clip_client.client import ClipClient
from clip_client.errors import ItemError, ServerMismatch
from clip_client.requests.channel import ConnectionOptions


@dataclass(frozen=True)
class CheckResult:
    """What a check found; `cosine` is to open_clip's own embedding, None where there is none."""

    ok: bool
    cosine: float | None
    seconds: float
    message: str


def check(
    url: str = defaults.URL,
    *,
    model: str = defaults.MODEL,
    connection: ConnectionOptions | None = None,
    wait_s: float = defaults.WAIT_FOR_SERVER_S,
    min_cosine: float | None = None,
) -> CheckResult:
    """Embeds the reference picture; raises ServerUnavailable when nobody answers within `wait_s`.

    `min_cosine` None takes what the server's config promises (less where it serves int8).
    """
    with ClipClient(url, model=model, connection=connection, deadline_s=wait_s, concurrency=1) as client:
        try:
            parameters = client.info.parameters
        except ServerMismatch as error:
            return CheckResult(False, None, 0.0, str(error))
        picture = base64.b64decode(parameters.get("reference_image", ""))
        wanted = np.frombuffer(base64.b64decode(parameters.get("reference_embedding", "")), "<f4")
        if not picture or wanted.size != client.info.dimension:
            text = f"{model} at {url} carries no reference picture: export it with clip-export"
            return CheckResult(False, None, 0.0, text)
        if min_cosine is None:
            min_cosine = float(parameters.get("reference_min_cosine", defaults.MIN_REFERENCE_COSINE))
        begin = time.monotonic()
        (row,) = client.request([picture])
        took = time.monotonic() - begin
        maimed = client.dead_processes or client.is_unready()
    if isinstance(row, ItemError):
        return CheckResult(False, None, took, f"the reference picture was refused: {row}")
    cosine = float(row @ wanted)
    if maimed:
        text = "the server embeds, and one of its Python processes has died: requests to that one fail"
        return CheckResult(False, cosine, took, text)
    ok = cosine >= min_cosine
    text = (
        f"cosine {cosine:.6f} to open_clip's embedding of the reference picture "
        f"({'at least' if ok else 'less than'} {min_cosine}), in {took * 1000:.0f} ms"
    )
    return CheckResult(ok, cosine, took, text)
