"""What each service answers when one photo of eight is bad, asked with the null encoder in its place."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import requests

from benchmarks.contenders import Place, litserve, origin, ours
from clip_client import ClipClient, ItemError
from tools.fake_gcs import FakeGcs

COUNT, BAD = 8, 3
BUCKET = "bad-input"
_TIMEOUT_S = 60
Row = tuple[str, str, str]


def ask_all(place: Place, bucket: FakeGcs, photo: bytes) -> list[Row]:
    """(service, what was wrong, answer), for a photo that is cut off and for a file that is none."""
    kinds = {"cut off after a third": photo[: len(photo) // 3], "not a picture": b"this is no photo " * 1000}
    sets = {kind: [bad if index == BAD else photo for index in range(COUNT)] for kind, bad in kinds.items()}
    rows: list[Row] = []
    with origin(2, "squash", "null", place) as service:
        rows += [("origin", kind, _origin(service.address, bucket, data)) for kind, data in sets.items()]
    with litserve("null", place) as service:
        rows += [("LitServe", kind, _litserve(service.address, data)) for kind, data in sets.items()]
    with ours("null", None, place) as service:
        rows += [("ours", kind, _ours(service.address, data)) for kind, data in sets.items()]
    return rows


def _origin(address: str, bucket: FakeGcs, photos: list[bytes]) -> str:
    names = [f"{index}.jpg" for index in range(COUNT)]
    for name, data in zip(names, photos, strict=True):
        bucket.upload(BUCKET, name, data)
    answer = requests.post(f"{address}/embed", json={"bucket": BUCKET, "names": names}, timeout=_TIMEOUT_S)
    if answer.status_code != 200:
        return f"one request: {answer.status_code}, none of the {COUNT - 1} good photos embedded"
    embedded = len(answer.json()["embeddings"])
    return f"one request: 200, {embedded} embeddings: the bad one's too, with nothing to tell it by"


def _litserve(address: str, photos: list[bytes]) -> str:
    def upload(data: bytes) -> int:
        files = {"content": ("photo.jpg", data)}
        return requests.post(f"{address}/predict", files=files, timeout=_TIMEOUT_S).status_code

    with ThreadPoolExecutor(COUNT) as pool:
        codes = list(pool.map(upload, photos))
    good = [code for index, code in enumerate(codes) if index != BAD]
    return (
        f"{COUNT} requests at once: {codes[BAD]} for the bad one, {good.count(200)} of {COUNT - 1} good "
        "photos embedded" + f" ({good.count(500)} answered 500)" * (500 in good)
    )


def _ours(address: str, photos: list[bytes]) -> str:
    with ClipClient(address) as client:
        outcomes = client.embed(photos, on_error="return")
    good = sum(not isinstance(outcome, ItemError) for outcome in outcomes)
    bad = outcomes[BAD]
    text = f"`{bad.code}`" if isinstance(bad, ItemError) else "an embedding"
    return f"one request: {text} for the bad one, {good} of {COUNT - 1} good photos embedded"
