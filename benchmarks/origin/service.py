"""The origin's service, re-created from its description: object names in, embeddings out.

    uvicorn benchmarks.origin.service:app --workers 3

One endpoint loads the named objects of a bucket (gcloud-aio-storage), decodes them (OpenCV), squashes
them to 224 x 224 (cubic) and embeds them (open_clip in torch, batches of 32). It logs the minimum, mean
and maximum of each stage. Loading is concurrent and CPU work runs in threads, as a team that watches its
latencies would write it. Two switches are ours: ORIGIN_TRANSFORM=open_clip replaces the squash by open_clip's
own transform, and ORIGIN_ENCODER=null returns a constant vector, so that everything before the encoder can be
measured without it.
"""

from __future__ import annotations

import asyncio
import io
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import cv2
import numpy as np
import numpy.typing as npt
import open_clip
import torch
from fastapi import FastAPI, HTTPException
from gcloud.aio.storage import Storage
from PIL import Image
from pydantic import BaseModel

MODEL = "ViT-B-32"
SIZE, DIMENSION, BATCH = 224, 512, 32
MEAN = np.array(open_clip.OPENAI_DATASET_MEAN, np.float32)
STD = np.array(open_clip.OPENAI_DATASET_STD, np.float32)

logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(message)s")
logging.getLogger("httpx").setLevel(logging.WARNING)
log = logging.getLogger("origin")


class EmbedRequest(BaseModel):
    bucket: str
    names: list[str]


class EmbedResponse(BaseModel):
    embeddings: list[list[float]]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    torch.set_num_threads(int(os.environ.get("ORIGIN_TORCH_THREADS", torch.get_num_threads())))
    app.state.encode = null_encoder() if os.environ.get("ORIGIN_ENCODER") == "null" else torch_encoder()
    whole = os.environ.get("ORIGIN_TRANSFORM") == "open_clip"
    app.state.decode, app.state.preprocess = open_clip_transform() if whole else (decode, squash)
    async with aiohttp.ClientSession() as session:
        app.state.storage = Storage(session=session)
        log.info("worker ready")
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/embed")
async def embed(request: EmbedRequest) -> EmbedResponse:
    """One embedding per name, in order; 422 if an object is not a picture."""
    stages = Stages()
    begin = time.perf_counter()
    pictures = await asyncio.gather(*(load(request.bucket, name, stages) for name in request.names))
    stages.add("load+decode", begin)

    begin = time.perf_counter()
    pixels = await asyncio.to_thread(lambda: torch.stack([app.state.preprocess(each) for each in pictures]))
    stages.add("preprocess", begin)

    begin = time.perf_counter()
    rows = [await asyncio.to_thread(app.state.encode, part) for part in pixels.split(BATCH)]
    stages.add("embed", begin)
    stages.log()
    return EmbedResponse(embeddings=torch.cat(rows).tolist())


async def load(bucket: str, name: str, stages: Stages) -> Any:
    begin = time.perf_counter()
    data = await app.state.storage.download(bucket, name)
    stages.add("load", begin)
    begin = time.perf_counter()
    picture = await asyncio.to_thread(app.state.decode, data)
    stages.add("decode", begin)
    if picture is None:
        raise HTTPException(422, f"{name} cannot be decoded")
    return picture


def decode(data: bytes) -> Any:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def squash(picture: npt.NDArray[np.uint8]) -> torch.Tensor:
    small = cv2.resize(picture, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    scaled = (cv2.cvtColor(small, cv2.COLOR_BGR2RGB).astype(np.float32) / 255 - MEAN) / STD
    return torch.from_numpy(scaled.transpose(2, 0, 1))


def open_clip_transform() -> tuple[Callable[[bytes], Any], Callable[[Any], torch.Tensor]]:
    """Decoding, and open_clip's own transform."""
    transform: Any = open_clip.image_transform(SIZE, is_train=False)

    def opened(data: bytes) -> Any:
        try:
            picture = Image.open(io.BytesIO(data))
            picture.load()
        except OSError:
            return None
        return picture

    return opened, transform


def torch_encoder() -> Callable[[torch.Tensor], torch.Tensor]:
    """The image tower with random weights: what it costs does not depend on them."""
    model: Any = open_clip.create_model(MODEL, pretrained=None).eval()

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            rows: torch.Tensor = model.encode_image(pixels, normalize=True)
        return rows

    return encode


def null_encoder() -> Callable[[torch.Tensor], torch.Tensor]:
    row = torch.full((1, DIMENSION), DIMENSION**-0.5)
    return lambda pixels: row.expand(len(pixels), -1)


class Stages:
    """The stage times of one request: load and decode per photo, the others per request."""

    def __init__(self) -> None:
        self._seconds: dict[str, list[float]] = {}

    def add(self, stage: str, begin: float) -> None:
        self._seconds.setdefault(stage, []).append(time.perf_counter() - begin)

    def log(self) -> None:
        for stage, seconds in self._seconds.items():
            least, mean, largest = (
                1000 * value for value in (min(seconds), sum(seconds) / len(seconds), max(seconds))
            )
            log.info("stage=%s n=%d min=%.2f mean=%.2f max=%.2f", stage, len(seconds), least, mean, largest)
