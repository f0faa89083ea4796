"""Exports, serves, uploads, embeds, and shows what came of it; stops all that it started."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from tritonclient.grpc import InferenceServerClient

from clip_serving import defaults
from clip_serving.errors import ClipServingError
from clip_serving.launcher import TritonServer
from clip_serving.spec import SPEC_FILE, ModelSpec
from tools.demo.page import Neighbours, write_page
from tools.demo.photos import CREDITS, broken_photo, camera_photos
from tools.fake_gcs import FakeGcs

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = ROOT / "build" / "demo"
REPOSITORY = BUILD / "model_repository"
OUT = BUILD / "embeddings.parquet"
PAGE = BUILD / "similar.html"
BUCKET = "album"


def main() -> int:
    parser = argparse.ArgumentParser("make demo", description=__doc__)
    parser.add_argument("--photos", type=Path, help="a folder of your own photos")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="      %(message)s")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        run(options.photos)
    except KeyboardInterrupt:
        print("\nstopped; nothing is left running")
        return 130
    except (ClipServingError, DemoError) as error:
        print(f"\nthe demo failed: {error}", file=sys.stderr)
        return 1
    return 0


class DemoError(Exception):
    """A step did not do what it should; the text says which and what to look at."""


def run(folder: Path | None) -> None:
    BUILD.mkdir(parents=True, exist_ok=True)
    spec = _export()
    photos = _photos(folder)
    with _step("starting fake-gcs-server and uploading the photos"), FakeGcs() as bucket:
        for name, data in photos.items():
            bucket.upload(BUCKET, name, data)
        _say(f"{len(photos)} objects, {sum(map(len, photos.values())) / 1e6:.0f} MB, in gs://{BUCKET}")
        with _step("starting tritonserver"), TritonServer(REPOSITORY) as server:
            _say(f"ready and right: its reference embedding matches open_clip's ({server.grpc_url})")
            with _step(f"clip-embed gs://{BUCKET} --out {OUT.relative_to(ROOT)}"):
                summary = _embed(server, bucket)
            mean_batch = _mean_batch(server)
    _report(summary, mean_batch, photos, spec)


def _export() -> ModelSpec:
    known = sorted(REPOSITORY.glob(f"{defaults.ENCODER}/[0-9]*/{SPEC_FILE}"))
    if known:
        spec = ModelSpec.load(known[-1])
        print(f"[1/5] already exported: {spec.model}, {spec.pretrained} (`make clean` forgets it)")
        return spec
    with _step("exporting ViT-B-32 (ONNX fp32, verified against open_clip)"):
        command = [
            os.environ.get("CLIP_EXPORT", "clip-export"),
            "--repository",
            str(REPOSITORY),
            "--fallback-random",
            "--formats",
            "onnx-fp32",
        ]
        _checked(subprocess.run(command, check=False).returncode, (0,), "clip-export")
    return _export()


def _photos(folder: Path | None) -> dict[str, bytes]:
    with _step(f"reading {folder}" if folder else "making camera-like photos from scikit-image's pictures"):
        if folder is not None:
            files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
            photos = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
            if not photos:
                raise DemoError(f"{folder} holds no file")
            return photos
        photos = dict(camera_photos())
        photos["broken/cut-off.jpg"] = broken_photo()
        _say("; ".join(f"{name}: {credit}" for name, credit in CREDITS.items()))
        return photos


def _embed(server: TritonServer, bucket: FakeGcs) -> dict[str, float]:
    command = [
        str(Path(sys.executable).parent / "clip-embed"),
        f"gs://{BUCKET}",
        "--out",
        str(OUT),
        "--url",
        server.grpc_url,
        "--overwrite",
        "--json",
    ]
    environment = {**os.environ, "STORAGE_EMULATOR_HOST": bucket.url}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    _checked(done.returncode, (0, 1), "clip-embed")
    summary: dict[str, float] = json.loads(done.stdout)
    return summary


def _mean_batch(server: TritonServer) -> float:
    """Photos in an execution of the encoder, by Triton's own count."""
    client = InferenceServerClient(server.grpc_url)
    (model,) = client.get_inference_statistics(defaults.ENCODER).model_stats
    client.close()
    return float(model.inference_count / model.execution_count)


def _report(summary: dict[str, float], mean_batch: float, photos: dict[str, bytes], spec: ModelSpec) -> None:
    table = pq.read_table(OUT)
    rows = table.drop_columns(["embedding"]).to_pylist()
    vectors = np.stack(table.column("embedding").to_numpy(zero_copy_only=False))
    right = [index for index, row in enumerate(rows) if row["error_code"] is None]
    names = [rows[index]["name"] for index in right]
    neighbours = nearest(names, vectors[right])
    warning = (
        "RANDOM WEIGHTS: no model hub was in reach. Near-copies still find each other; meaning does not."
        if spec.random_weights
        else ""
    )
    print(
        f"\n{len(rows)} objects: {len(right)} embedded, {len(rows) - len(right)} failed; "
        f"{summary['photos_per_second']:.1f} photos/s, encoder's mean batch {mean_batch:.1f}"
    )
    for row in rows:
        if row["error_code"] is not None:
            print(f"  failed  {row['name']}: {row['error_code']}: {row['error_text']}")
    width = max(map(len, names), default=0)
    for row in neighbours:
        name, cosine = row.nearest[0] if row.nearest else ("-", float("nan"))
        print(f"  {row.name:{width}}  is nearest to  {name:{width}}  cosine {cosine:.4f}")
    if warning:
        print(f"\n{warning}")
    write_page(PAGE, neighbours, photos, model=f"{spec.model}, {spec.pretrained}", warning=warning)
    print(f"\nlook at {PAGE.relative_to(ROOT)}; the embeddings are in {OUT.relative_to(ROOT)}")


def nearest(names: list[str], vectors: npt.NDArray[np.float32], count: int = 3) -> list[Neighbours]:
    """For each name the `count` others with the largest cosine; `vectors` are float32 [N, D], unit."""
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -np.inf)
    order = np.argsort(-cosines, axis=1)[:, : min(count, len(names) - 1)]
    return [
        Neighbours(name, [(names[other], float(cosines[row, other])) for other in order[row]])
        for row, name in enumerate(names)
    ]


_steps = iter(range(2, 6))
_STEPS = 5


@contextmanager
def _step(title: str) -> Iterator[None]:
    number = 1 if title.startswith("exporting") else next(_steps)
    print(f"[{number}/{_STEPS}] {title} ...", flush=True)
    _begin.append(time.monotonic())
    yield


_begin: list[float] = []


def _say(text: str) -> None:
    print(f"      {text} ({time.monotonic() - _begin[-1]:.1f} s)", flush=True)


def _checked(status: int, allowed: tuple[int, ...], what: str) -> None:
    if status not in allowed:
        raise DemoError(f"{what} ended with exit status {status}; its own message is above")


def _interrupt(signum: int, frame: FrameType | None) -> None:
    del signum, frame
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
