"""Embeddings out of the service against open_clip's own, with controls that must be told apart."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import open_clip
import pytest
import torch
from PIL import Image, ImageOps

from clip_client import ClipClient
from clip_export.load import LoadedModel, load
from clip_export.text import load_text
from clip_export.tokenizer import TEXTS
from clip_serving.repository.spec import SPEC_FILE, ModelSpec
from testing.pictures import camera_photos
from tests.golden.conftest import served

Floats = npt.NDArray[np.float32]
_MIN_COSINE = 0.9999


@pytest.fixture(scope="module")
def client(grpc_url: str) -> Iterator[ClipClient]:
    with ClipClient(grpc_url, images_per_request=32, concurrency=64) as connected:
        yield connected


@pytest.fixture(scope="module")
def photos() -> list[bytes]:
    return camera_photos(32, seed=11)


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load("ViT-B-32", "none", seed=0)


@pytest.fixture(scope="module")
def wanted(loaded: LoadedModel, photos: list[bytes]) -> Floats:
    return reference(loaded, photos)


def reference(
    loaded: LoadedModel,
    photos: list[bytes],
    change: Callable[[Image.Image], Image.Image] = lambda picture: picture,
    **settings: Any,
) -> Floats:
    """open_clip's transform and encode_image; `change` and `settings` make the negative controls."""
    spec = loaded.spec
    arguments = {"mean": spec.mean, "std": spec.std, "resize_mode": spec.resize_mode, **settings}
    transform = open_clip.image_transform(
        spec.image_size, is_train=False, interpolation=spec.interpolation, **arguments
    )
    pictures = [ImageOps.exif_transpose(Image.open(io.BytesIO(photo))) for photo in photos]
    tensors = torch.stack([transform(change(picture)) for picture in pictures])
    rows: Floats = loaded.encode(tensors).numpy()
    return rows


def min_cosine(rows: Floats, others: Floats) -> float:
    return float((rows * others).sum(axis=1).min())


def test_the_served_weights_are_the_exported_ones(loaded: LoadedModel, repository: Path) -> None:
    spec = ModelSpec.load(repository / "clip_image_encoder" / "1" / SPEC_FILE)
    assert spec.weights_sha256 == loaded.spec.weights_sha256


def test_single_requests(client: ClipClient, photos: list[bytes], wanted: Floats) -> None:
    rows = np.concatenate([client.embed([photo]) for photo in photos[:8]])
    assert min_cosine(rows, wanted[:8]) >= _MIN_COSINE


def test_a_batch_of_32(client: ClipClient, photos: list[bytes], wanted: Floats) -> None:
    assert min_cosine(client.embed(photos), wanted) >= _MIN_COSINE


def test_64_concurrent_single_requests(client: ClipClient, photos: list[bytes], wanted: Floats) -> None:
    with ThreadPoolExecutor(64) as pool:
        answers = pool.map(lambda index: client.embed([photos[index % 32]])[0], range(64))
        rows = np.stack(list(answers))
    assert min_cosine(rows, np.concatenate([wanted, wanted])) >= _MIN_COSINE


@pytest.mark.parametrize(("quality", "least"), [("high", 0.999), ("fast", 0.995)])
def test_the_faster_qualities_are_close(
    repository: Path, photos: list[bytes], wanted: Floats, quality: str, least: float
) -> None:
    with served(repository, quality) as url, ClipClient(url) as client:
        cosine = min_cosine(client.embed(photos), wanted)
    assert least <= cosine < 1.0 - 1e-7, "at least near, and not secretly exact"


def bgr(picture: Image.Image) -> Image.Image:
    return Image.merge("RGB", picture.convert("RGB").split()[::-1])


@pytest.mark.parametrize(
    "control",
    [
        pytest.param({"change": bgr}, id="BGR order"),
        pytest.param({"mean": (0.5,) * 3, "std": (0.5,) * 3}, id="wrong mean and std"),
        pytest.param({"resize_mode": "squash"}, id="squash for crop"),
        pytest.param({"change": ImageOps.mirror}, id="mirror image"),
    ],
)
def test_the_check_can_fail(
    client: ClipClient, loaded: LoadedModel, photos: list[bytes], control: dict[str, Any]
) -> None:
    rows = client.embed(photos[:8])
    assert min_cosine(rows, reference(loaded, photos[:8], **control)) < _MIN_COSINE


def test_texts(client: ClipClient, loaded: LoadedModel) -> None:
    wanted = load_text(loaded).encode([*TEXTS])
    rows = client.embed_text(TEXTS)
    assert min_cosine(rows, wanted) >= _MIN_COSINE
    np.testing.assert_allclose(rows, wanted, atol=1e-4)


@pytest.mark.parametrize("near", ["a dogs on the beach", "a dog on thebeach", "a dog on the beach ."])
def test_the_check_of_texts_can_fail(client: ClipClient, loaded: LoadedModel, near: str) -> None:
    wanted = load_text(loaded).encode(["a dog on the beach"])
    assert min_cosine(client.embed_text(["A DOG  on the beach"]), wanted) >= _MIN_COSINE
    assert min_cosine(client.embed_text([near]), wanted) < _MIN_COSINE
