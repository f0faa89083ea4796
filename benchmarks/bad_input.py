"""What each service answers when one photo of eight is bad; measured with the null encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial

import requests

from benchmarks.systems import BenchmarkError, Service, System, Workspace, litserve, origin, ours
from clip_client import ClipClient, ClipClientError, ItemError
from clip_serving.errors import ClipServingError
from testing.fake_gcs import FakeGcs

COUNT, BAD = 8, 3
BUCKET = "bad-input"
_TIMEOUT_S = 60
Row = tuple[str, str, str]
Ask = Callable[[str, list[bytes]], str]
"""Sends the photos to an address; returns what came back, in words."""


def ask_all(systems: Sequence[System], workspace: Workspace, bucket: FakeGcs, photo: bytes) -> list[Row]:
    """(service, what was wrong, answer), for a truncated photo and for a file that is not a photo.

    Asks the services that some of the `systems` measure.

    If a service does not start, or does not answer, that is its answer.
    """
    kinds = {"truncated after a third": photo[: len(photo) // 3], "not a photo": b"this is no photo " * 1000}
    sets = {kind: [bad if index == BAD else photo for index in range(COUNT)] for kind, bad in kinds.items()}
    services: list[tuple[str, AbstractContextManager[Service], Ask]] = [
        ("origin", origin(2, "squash", "null", workspace), partial(_origin, bucket)),
        ("LitServe", litserve("null", workspace), _litserve),
        ("ours", ours("null", None, workspace), _ours),
    ]
    rows: list[Row] = []
    for name, start, ask in services:
        if not any(system.key.startswith(name.lower()) for system in systems):
            continue
        try:
            with start as service:
                rows += [(name, kind, ask(service.address, data)) for kind, data in sets.items()]
        except (BenchmarkError, ClipServingError, ClipClientError, OSError) as error:
            rows += [(name, kind, f"not measured: {error}") for kind in sets]
    return rows


def _origin(bucket: FakeGcs, address: str, photos: list[bytes]) -> str:
    names = [f"{index}.jpg" for index in range(COUNT)]
    for name, data in zip(names, photos, strict=True):
        bucket.upload(BUCKET, name, data)
    answer = requests.post(f"{address}/embed", json={"bucket": BUCKET, "names": names}, timeout=_TIMEOUT_S)
    if answer.status_code != 200:
        return f"one request: {answer.status_code}, none of the {COUNT - 1} good photos embedded"
    embedded = len(answer.json()["embeddings"])
    return f"one request: 200, {embedded} embeddings: one for the bad photo too, which nothing marks"


def _litserve(address: str, photos: list[bytes]) -> str:
    def upload(data: bytes) -> int:
        files = {"content": ("photo.jpg", data)}
        return requests.post(f"{address}/predict", files=files, timeout=_TIMEOUT_S).status_code

    with ThreadPoolExecutor(COUNT) as pool:
        codes = list(pool.map(upload, photos))
    good = [code for index, code in enumerate(codes) if index != BAD]
    return (
        f"{COUNT} requests at once: {codes[BAD]} for the bad photo, {good.count(200)} of {COUNT - 1} good "
        "photos embedded" + f" ({good.count(500)} answered 500)" * (500 in good)
    )


def _ours(address: str, photos: list[bytes]) -> str:
    with ClipClient(address) as client:
        outcomes = client.embed(photos, on_error="return")
    good = sum(not isinstance(outcome, ItemError) for outcome in outcomes)
    bad = outcomes[BAD]
    text = f"`{bad.code}`" if isinstance(bad, ItemError) else "an embedding"
    return f"one request: {text} for the bad photo, {good} of {COUNT - 1} good photos embedded"
