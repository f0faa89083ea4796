"""Checks a server's embeddings with the reference picture in its own config.

A server can pass every health probe and still embed wrongly: with other preprocessing, other weights, or a
driver that computes wrong values. open_clip computed the expected vector at export. A server can also embed
correctly while one of its Python processes is dead, because Triton does not restart it.
"""

from __future__ import annotations

import base64
import dataclasses
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clip_client import defaults
from clip_client.client import READY_TIMEOUT_S, ClipClient
from clip_client.errors import ItemError, ServerMismatch
from clip_client.requests.channel import ConnectionOptions, addresses
from clip_client.requests.drivers import run
from clip_client.requests.pixels import PreprocessInfo
from clip_client.requests.retry import RetryEngine
from clip_client.requests.servers import Servers


@dataclass(frozen=True)
class CheckResult:
    """The result of a check. `cosine` is the similarity to open_clip's embedding, None if there is none."""

    ok: bool
    cosine: float | None
    seconds: float
    message: str


def check(
    url: str | Sequence[str] = defaults.URL,
    *,
    model: str = defaults.MODEL,
    connection: ConnectionOptions | None = None,
    wait_s: float = defaults.WAIT_FOR_SERVER_S,
    min_cosine: float | None = None,
    tier: defaults.Tier | None = None,
    decode: str | Sequence[str] | None = None,
) -> CheckResult:
    """Embeds the reference picture. Raises ServerUnavailable if there is no answer within `wait_s` seconds.

    If the server has a text tower, embeds its reference text too, and `cosine` is the lesser of the two.
    By default `min_cosine` is the value in the server's config, which is lower if it serves int8.

    With several addresses, checks each server, and that all have the same model and settings. The result is
    that of the first server that fails, or of the one with the least cosine.

    `tier` is the part of the repository that the server serves, None for all of it. For `encode`, this
    process decodes the picture, which needs the extra `decode`, unless `decode` is the address of a server
    that does. A server of `decode` must return the picture's pixels; their values are not compared.
    """
    urls = addresses(url, ssl=connection is not None and connection.ssl)
    decode = decode or ("client" if tier == "encode" else defaults.DECODE)
    results = []
    for each in urls:
        if tier == "decode":
            result = _check_decode(each, model, connection or ConnectionOptions(), wait_s)
        else:
            result = _check_one(each, model, connection, wait_s, min_cosine, decode)
        if len(urls) > 1:
            result = dataclasses.replace(result, message=f"{each}: {result.message}")
        if not result.ok:
            return result
        results.append(result)
    if len(urls) > 1 and tier != "decode":
        try:
            with ClipClient(
                urls, model=model, connection=connection, deadline_s=wait_s, decode=decode
            ) as client:
                client.wait(wait_s)
        except ServerMismatch as error:
            return CheckResult(False, None, 0.0, str(error))
    return min(results, key=lambda each: each.cosine or 0.0)


def _check_one(
    url: str,
    model: str,
    connection: ConnectionOptions | None,
    wait_s: float,
    min_cosine: float | None,
    decode: str | Sequence[str],
) -> CheckResult:
    with ClipClient(
        url, model=model, connection=connection, deadline_s=wait_s, concurrency=1, decode=decode
    ) as client:
        try:
            parameters = client.wait(wait_s).parameters
        except ServerMismatch as error:
            return CheckResult(False, None, 0.0, str(error))
        picture = base64.b64decode(parameters.get("reference_image", ""))
        wanted = np.frombuffer(base64.b64decode(parameters.get("reference_embedding", "")), "<f4")
        if not picture or wanted.size != client.info.dimension:
            text = f"{model} at {url} has no reference picture. Export the model with clip-export"
            return CheckResult(False, None, 0.0, text)
        if min_cosine is None:
            min_cosine = float(parameters.get("reference_min_cosine", defaults.MIN_REFERENCE_COSINE))
        begin = time.monotonic()
        (row,) = client.request([picture])
        text_cosine = _text_cosine(client)
        took = time.monotonic() - begin
        has_dead_process = client.dead_processes or client.is_unready()
    if isinstance(row, ItemError):
        return CheckResult(False, None, took, f"the server rejected the reference picture: {row}")
    cosine = float(row @ wanted)
    if has_dead_process:
        text = "the server embeds, but one of its Python processes has died: requests to it fail"
        return CheckResult(False, cosine, took, text)
    of = "picture"
    if text_cosine is not None and text_cosine < cosine:
        cosine, of = text_cosine, "text"
    ok = cosine >= min_cosine
    text = (
        f"cosine {cosine:.6f} to open_clip's embedding of the reference {of} "
        f"({'at least' if ok else 'less than'} {min_cosine}), in {took * 1000:.0f} ms"
    )
    return CheckResult(ok, cosine, took, text)


def _check_decode(url: str, model: str, connection: ConnectionOptions, wait_s: float) -> CheckResult:
    """Asks for the pixels of the reference picture that the server's own config has."""
    transport = connection.open(url)
    engine = RetryEngine(Servers({url: transport}, 1), wait_s, threading.Event)
    try:
        config = run(engine.model_config(f"{model}_preprocess", wait_s, starting=True))
        info = PreprocessInfo.from_config(config)
        picture = base64.b64decode(info.parameters.get("reference_image", ""))
        begin = time.monotonic()
        (result,) = run(engine.request(info, [picture])).results
        took = time.monotonic() - begin
        is_ready = transport.ready(READY_TIMEOUT_S).ready
    except ServerMismatch as error:
        return CheckResult(False, None, 0.0, str(error))
    finally:
        transport.close()
    if result.error is not None:
        return CheckResult(False, None, took, f"the server rejected the reference picture: {result.error}")
    if engine.servers.dead_processes or not is_ready:
        text = "the server decodes, but one of its Python processes has died: requests to it fail"
        return CheckResult(False, None, took, text)
    height, width, _ = info.pixels
    text = f"decoded the reference picture to {width} x {height} pixels, in {took * 1000:.0f} ms"
    return CheckResult(True, None, took, text)


def _text_cosine(client: ClipClient) -> float | None:
    """The cosine of the reference text's embedding to open_clip's, -1 for an error; None without one."""
    try:
        parameters = client.text_info.parameters
    except ServerMismatch:
        return None
    wanted = np.frombuffer(base64.b64decode(parameters.get("reference_embedding", "")), "<f4")
    (result,) = client.embed_text_results([parameters.get("reference_text", "")])
    return -1.0 if result.embedding is None else float(result.embedding @ wanted)
