"""Compares each written artifact with open_clip's own encode_image, before anything is published."""

from __future__ import annotations

import base64
import dataclasses
import io
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import open_clip
import torch
from PIL import Image

from clip_export.errors import ParityError
from clip_export.load import LoadedModel
from clip_export.pictures import natural_pictures, own_pictures, reference_jpeg, sample_pictures
from clip_export.text import TextTower
from clip_export.tokenizer import TEXTS
from clip_preprocess.pipeline import preprocess_one
from clip_serving import defaults
from clip_serving.encoder.proof import Proof, least_cosine
from clip_serving.repository.families.image.settings import ImageSettings, preprocess_settings
from clip_serving.repository.spec import ModelSpec

BATCHES = (1, 3, 8)
_INT8_MASK_TOLERANCE = 0.05
PHOTOS, PROOF_PHOTOS = 32, 8
"""Natural pictures that int8 is compared on, and how many of them are stored for every server."""
FP32_TOLERANCE = 1e-4
FP16_TOLERANCE = 5e-3

Floats = npt.NDArray[np.float32]
Encoder = Callable[[npt.NDArray[Any], npt.NDArray[np.bool_]], Floats]
"""An artifact: uint8 pixels [N,H,W,3] or int32 tokens [N,L], and the mask [N,1], to rows [N,D]."""


@dataclass(frozen=True)
class Parity:
    """How far an artifact is from open_clip at one batch size, over normalized vectors."""

    artifact: str
    batch: int
    max_abs_difference: float
    min_cosine: float
    tolerance: float

    @property
    def ok(self) -> bool:
        return bool(self.max_abs_difference <= self.tolerance)

    def __str__(self) -> str:
        return (
            f"{self.artifact:16} batch {self.batch}: max abs difference {self.max_abs_difference:.1e}, "
            f"min cosine {self.min_cosine:.7f} (tolerance {self.tolerance:.0e})"
            + ("" if self.ok else "  REJECTED")
        )


def reference_embeddings(loaded: LoadedModel, pictures: list[Image.Image]) -> Floats:
    """open_clip's transform and encode_image, float32 [N,D]: the reference for every artifact."""
    spec = loaded.spec
    transform = open_clip.image_transform(
        spec.image_size,
        is_train=False,
        mean=spec.mean,
        std=spec.std,
        resize_mode=spec.resize_mode,
        interpolation=spec.interpolation,
        fill_color=spec.fill_color,
    )
    rows: Floats = loaded.encode(torch.stack([transform(picture) for picture in pictures])).numpy()
    return rows


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def with_reference(loaded: LoadedModel) -> ModelSpec:
    """The spec with the reference picture and open_clip's embedding of it."""
    jpeg = reference_jpeg()
    (row,) = reference_embeddings(loaded, [Image.open(io.BytesIO(jpeg))])
    return dataclasses.replace(
        loaded.spec,
        reference_image=base64.b64encode(jpeg).decode(),
        reference_embedding=base64.b64encode(row.astype("<f4").tobytes()).decode(),
    )


def verify(
    artifact: str, encode: Encoder, loaded: LoadedModel, tolerance: float, report: Callable[[str], None]
) -> list[Parity]:
    """Compares `encode` with encode_image; raises ParityError past the tolerance or for a wrong mask."""
    pictures = sample_pictures(max(BATCHES))
    wanted = reference_embeddings(loaded, pictures)
    return verify_rows(artifact, encode, _exact_pixels(loaded, pictures), wanted, tolerance, report)


def verify_text(
    artifact: str, encode: Encoder, tower: TextTower, tolerance: float, report: Callable[[str], None]
) -> list[Parity]:
    """Compares `encode` with encode_text; raises ParityError past the tolerance or for a wrong mask."""
    texts = list(TEXTS[: max(BATCHES)])
    return verify_rows(
        artifact, encode, tower.tokenizer.tokens(texts), tower.encode(texts), tolerance, report
    )


def verify_rows(
    artifact: str,
    encode: Encoder,
    items: npt.NDArray[Any],
    wanted: Floats,
    tolerance: float,
    report: Callable[[str], None],
) -> list[Parity]:
    """Compares the rows of `items` with the `wanted` ones at each of BATCHES. Raises ParityError."""
    results = []
    for batch in BATCHES:
        rows = encode(items[:batch], np.ones((batch, 1), np.bool_))
        results.append(_compare(artifact, rows, wanted[:batch], tolerance))
        report(str(results[-1]))
    if not all(result.ok for result in results):
        raise ParityError(
            f"{artifact} differs from open_clip's own embeddings by more than {tolerance:.0e}; "
            "nothing was published"
        )
    _check_mask(artifact, encode, items[:3], wanted[:3], tolerance)
    return results


@dataclass(frozen=True)
class Int8Parity:
    """How far int8 is from fp32 on real photos, at one batch size; the bound is on the cosine."""

    artifact: str
    batch: int
    photos: int
    max_abs_difference: float
    mean_cosine: float
    min_cosine: float
    bound: float

    @property
    def ok(self) -> bool:
        return self.min_cosine >= self.bound

    def __str__(self) -> str:
        return (
            f"{self.artifact:16} batch {self.batch}, {self.photos} photos: max abs difference "
            f"{self.max_abs_difference:.1e}, cosine mean {self.mean_cosine:.6f}, min {self.min_cosine:.6f} "
            f"(at least {self.bound})" + ("" if self.ok else "  NOT OFFERED")
        )


def photo_proof(loaded: LoadedModel, folder: Path | None = None) -> Proof:
    """Real photos, from `folder` or from scikit-image, and open_clip's own embeddings of them."""
    pictures = own_pictures(folder, PROOF_PHOTOS, 2 * PHOTOS) if folder else natural_pictures(PHOTOS)
    return Proof(_exact_pixels(loaded, pictures), reference_embeddings(loaded, pictures))


def compare_int8(encode: Encoder, photos: Proof, report: Callable[[str], None]) -> list[Int8Parity]:
    """Compares one by one and in batches, because quantized activations share one scale per batch."""
    results = []
    for batch in sorted({1, 8, len(photos.pixels)}):
        ends = range(batch, len(photos.pixels), batch)
        rows = np.concatenate(
            [encode(part, np.ones((len(part), 1), np.bool_)) for part in np.split(photos.pixels, ends)]
        )
        cosines = [least_cosine(a[None], b[None]) for a, b in zip(rows, photos.embeddings, strict=True)]
        difference = float(np.abs(rows - photos.embeddings).max())
        bound = defaults.MIN_COSINE["int8"]
        results.append(
            Int8Parity(
                "onnx-int8", batch, len(rows), difference, float(np.mean(cosines)), min(cosines), bound
            )
        )
        report(str(results[-1]))
    if all(result.ok for result in results):
        _check_mask("onnx-int8", encode, photos.pixels[:3], photos.embeddings[:3], _INT8_MASK_TOLERANCE)
    return results


def _exact_pixels(loaded: LoadedModel, pictures: list[Image.Image]) -> npt.NDArray[np.uint8]:
    settings = preprocess_settings(loaded.spec, ImageSettings(quality="exact"))
    return np.stack([preprocess_one(_png(picture), settings) for picture in pictures])


def _compare(artifact: str, rows: Floats, wanted: Floats, tolerance: float) -> Parity:
    difference = float(np.abs(rows - wanted).max()) if rows.shape == wanted.shape else float("inf")
    cosine = float((rows * wanted).sum(axis=1).min()) if rows.shape == wanted.shape else float("nan")
    if not np.isfinite(difference):
        difference = float("inf")
    return Parity(artifact, len(wanted), difference, cosine, tolerance)


def _check_mask(
    artifact: str, encode: Encoder, items: npt.NDArray[Any], wanted: Floats, tolerance: float
) -> None:
    rows = encode(items, np.array([[True], [False], [True]]))
    neighbors = np.abs(rows[[0, 2]] - wanted[[0, 2]]).max()
    if not (np.isnan(rows[1]).all() and neighbors <= tolerance):
        raise ParityError(f"{artifact}: a row that is not valid must be NaN and must not change the others")


def torchscript_encoder(path: Path) -> Encoder:
    with warnings.catch_warnings():
        # Deprecated in torch 2.15, and still the format that Triton's PyTorch backend loads.
        warnings.simplefilter("ignore", FutureWarning)
        module = torch.jit.load(str(path))

    def encode(items: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> Floats:
        with torch.inference_mode():
            rows: Floats = module(torch.from_numpy(items), torch.from_numpy(valid)).numpy()
        return rows

    return encode


def onnx_encoder(path: Path, graph_level: int = 0, inputs: tuple[str, str] = ("pixels", "valid")) -> Encoder:
    """Runs the graph in a child process, because an fp16 graph can crash onnxruntime on a CPU.

    `graph_level` is Triton's, and the one that the graph is served at: 0 for all optimizations.
    """

    def encode(items: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> Floats:
        with tempfile.TemporaryDirectory() as folder:
            given, made = Path(folder) / "in.npz", Path(folder) / "out.npy"
            np.savez(given, **dict(zip(inputs, (items, valid), strict=True)))
            program = [sys.executable, "-m", "clip_export.run_onnx"]
            command = [*program, str(path), str(graph_level), str(given), str(made)]
            child = subprocess.run(command, capture_output=True, text=True)
            if child.returncode != 0:
                last = (child.stderr.strip().splitlines() or ["no message"])[-1]
                raise ParityError(f"onnxruntime could not run {path.name} (exit {child.returncode}): {last}")
            rows: Floats = np.load(made)
        return rows

    return encode
