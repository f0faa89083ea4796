"""The cost of a photo before the encoder: `python -m benchmarks.preprocess --photos DIR`.

Interleaved passes in one process on one thread: our qualities, `high` with Pillow as the resizer, open_clip's
own transform, the usual shortcut (OpenCV's full decode squashed to the target) and the Huffman floor (a gray
decode at an eighth, which no decoder can undercut). `make bench-preprocess` runs it in the export's
environment, which has open_clip and OpenCV; elsewhere their rows are missing.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from clip_preprocess import PreprocessSettings, Quality, preprocess_one, resizer
from clip_preprocess.headers.jpeg import read_header

Pixels = npt.NDArray[np.uint8]
FLOOR = "Huffman floor"
SIZE = 224


@dataclass
class Way:
    """One way to pixels, and its CPU and wall seconds per photo, one row per pass."""

    run: Callable[[bytes], Any]
    pixels: bool = True
    cpu: list[list[float]] = field(default_factory=list)
    wall: list[list[float]] = field(default_factory=list)

    def measure(self, photos: list[bytes]) -> None:
        cpu, wall = [], []
        for photo in photos:
            started, busy = time.perf_counter(), time.process_time()
            self.run(photo)
            cpu.append(time.process_time() - busy)
            wall.append(time.perf_counter() - started)
        self.cpu.append(cpu)
        self.wall.append(wall)


def ways() -> dict[str, Way]:
    """All ignore EXIF orientation, as open_clip does, so that their pixels compare."""
    found = {quality: Way(_ours(quality)) for quality in ("exact", "high", "fast")}
    found["high, resized by Pillow"] = Way(_high_by_pillow)
    try:
        import torch
        from open_clip.transform import image_transform
    except ImportError:
        print("open_clip is not installed: its row is missing", file=sys.stderr)
    else:
        torch.set_num_threads(1)
        transform: Any = image_transform(SIZE, is_train=False)
        found["open_clip"] = Way(lambda data: transform(Image.open(io.BytesIO(data))), pixels=False)
    try:
        import cv2
    except ImportError:
        print("OpenCV is not installed: the row of decode and squash is missing", file=sys.stderr)
    else:
        cv2.setNumThreads(1)
        found["OpenCV, squash"] = Way(_squash)
    found[FLOOR] = Way(floor_of, pixels=False)
    return found


def _ours(quality: Quality) -> Callable[[bytes], Pixels]:
    settings = PreprocessSettings((SIZE, SIZE), apply_exif_orientation=False, quality=quality)
    return lambda data: preprocess_one(data, settings)


def _high_by_pillow(data: bytes) -> Pixels:
    """Without the `fast` extra, or on Linux on ARM."""
    fast_resize, resizer.fast_resize = resizer.fast_resize, resizer.pillow_resize
    try:
        return _ours("high")(data)
    finally:
        resizer.fast_resize = fast_resize


def _squash(data: bytes) -> Pixels:
    import cv2

    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    small = cv2.resize(decoded, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2RGB), np.uint8)


def floor_of(data: bytes) -> Pixels:
    """The gray photo at an eighth: entropy decoding and little else."""
    header = read_header(data)
    pixels: Pixels = simplejpeg.decode_jpeg(
        data, "GRAY", min_height=-(-header.height // 8), min_width=-(-header.width // 8)
    )
    return pixels


def embed(model: Path, pixels: Pixels) -> npt.NDArray[np.float32]:
    """Normalized embeddings [N,D] of the exported fp32 graph."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    valid = np.ones((1, 1), np.bool_)
    rows = [session.run(["embedding"], {"pixels": row[None], "valid": valid})[0] for row in pixels]
    return np.concatenate(rows)


def report(found: dict[str, Way], photos: list[bytes], model: Path | None) -> None:
    """Prints a table: mean CPU and wall milliseconds, and the distance of the pixels from `exact`."""
    exact = np.stack([found["exact"].run(photo) for photo in photos])
    wanted = embed(model, exact) if model else None
    floor = _best(found[FLOOR].cpu)
    print("| way | CPU ms | wall ms | times the floor | levels off: mean, worst photo | lowest cosine |")
    print("|---|---|---|---|---|---|")
    for name, way in found.items():
        cpu, wall = _best(way.cpu), _best(way.wall)
        pixels_off = least = ""
        if way.pixels:
            pixels = np.stack([way.run(photo) for photo in photos])
            off = np.abs(pixels.astype(int) - exact).mean(axis=(1, 2, 3))
            pixels_off = f"{off.mean():.3f}, {off.max():.3f}"
            if model is not None and wanted is not None:
                least = f"{(embed(model, pixels) * wanted).sum(axis=1).min():.5f}"
        print(f"| {name} | {cpu:.2f} | {wall:.2f} | {cpu / floor:.2f} | {pixels_off} | {least} |")


def _best(passes: list[list[float]]) -> float:
    """Milliseconds: each photo's lowest time over the passes, averaged over photos."""
    return float(np.asarray(passes).min(axis=0).mean() * 1000)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.preprocess", description=__doc__)
    parser.add_argument("--photos", type=Path, help="a folder of JPEGs (default: the tests' photos)")
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--model", type=Path, help="an exported model.onnx, to compare embeddings")
    options = parser.parse_args()
    if options.photos is None:
        from testing.pictures import camera_photos

        photos = camera_photos(20)
    else:
        photos = [path.read_bytes() for path in sorted(options.photos.rglob("*.jp*g"))]
    if not photos:
        print(f"no .jpg or .jpeg in {options.photos}", file=sys.stderr)
        return 2
    found = ways()
    for _ in range(options.passes):
        for way in found.values():
            way.measure(photos)
    megapixels = np.mean([np.prod(read_header(photo).size) for photo in photos]) / 1e6
    megabytes = np.mean([len(photo) for photo in photos]) / 1e6
    print(f"{len(photos)} photos, {megabytes:.1f} MB and {megapixels:.1f} megapixels on average\n")
    report(found, photos, options.model)
    return 0


if __name__ == "__main__":
    sys.exit(main())
