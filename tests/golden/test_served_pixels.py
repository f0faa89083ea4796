"""Bit for bit from the served model: clip_image_preprocess over gRPC against open_clip's own transform."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput

from clip_preprocess.settings import PreprocessSettings
from clip_serving.repository.spec import SPEC_FILE, ModelSpec
from testing.pictures import camera_photos, corrupt_pictures, odd_pictures
from testing.repositories import linked_repository
from tests.golden.conftest import served
from tests.golden.reference import reference

# The reference warns about palettes with transparency, which both ignore.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

_BATCH = 16
PICTURES = odd_pictures() | {f"camera_{i}.jpg": photo for i, photo in enumerate(camera_photos(2, seed=5))}


@pytest.fixture(scope="module")
def spec(repository: Path) -> ModelSpec:
    return ModelSpec.load(repository / "clip_image_encoder" / "1" / SPEC_FILE)


@pytest.fixture(scope="module", params=[True, False], ids=["EXIF applied", "EXIF ignored"])
def exif(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module")
def triton(
    request: pytest.FixtureRequest, repository: Path, exif: bool, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[InferenceServerClient]:
    """A server at the exact quality: the session's, or one whose configs ignore EXIF."""
    if exif:
        with InferenceServerClient(request.getfixturevalue("grpc_url")) as client:
            yield client
        return
    root = tmp_path_factory.mktemp("stored")
    linked_repository(repository, root, apply_exif_orientation=False)
    with served(root, "exact") as url, InferenceServerClient(url) as client:
        yield client


def pixels_of(
    triton: InferenceServerClient, photos: list[bytes]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """uint8 [N,H,W,3] and bool [N], by requests of 16 photos."""
    answers = []
    for begin in range(0, len(photos), _BATCH):
        batch = np.array([[photo] for photo in photos[begin : begin + _BATCH]], np.object_)
        image = InferInput("image", list(batch.shape), "BYTES")
        image.set_data_from_numpy(batch)
        answers.append(triton.infer("clip_image_preprocess", [image]))
    pixels = np.concatenate([answer.as_numpy("pixels") for answer in answers])
    valid = np.concatenate([answer.as_numpy("valid") for answer in answers])
    return pixels, valid.reshape(-1)


def test_odd_pictures_equal_open_clips_transform(
    triton: InferenceServerClient, spec: ModelSpec, exif: bool
) -> None:
    assert len(PICTURES) > 20
    settings = PreprocessSettings(
        spec.image_size, interpolation=spec.interpolation, resize_mode=spec.resize_mode
    )
    pixels, valid = pixels_of(triton, list(PICTURES.values()))
    assert valid.all()
    for row, (name, data) in zip(pixels, PICTURES.items(), strict=True):
        np.testing.assert_array_equal(row, reference(data, settings, transpose=exif), err_msg=name)


def test_the_orientation_follows_the_setting(triton: InferenceServerClient, exif: bool) -> None:
    """Without this, a server that never turned a picture would pass against a reference that does not."""
    pixels, _ = pixels_of(triton, [PICTURES["exif_1.jpg"], PICTURES["exif_3.jpg"]])
    upright, turned = pixels
    assert np.array_equal(upright, turned) is not exif


def test_a_broken_neighbor_changes_no_pixel(triton: InferenceServerClient) -> None:
    good, broken = PICTURES["landscape.jpg"], corrupt_pictures()["jpeg_half"][0]
    (alone,), _ = pixels_of(triton, [good])
    pixels, valid = pixels_of(triton, [good, broken, good])
    assert valid.tolist() == [True, False, True]
    np.testing.assert_array_equal(pixels[0], alone)
    np.testing.assert_array_equal(pixels[2], alone)
