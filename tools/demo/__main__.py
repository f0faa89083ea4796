"""Exports, serves, uploads, embeds, and shows what came of it; stops all that it started."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

from tritonclient.grpc import InferenceServerClient

from clip_serving import defaults
from clip_serving.errors import ClipServingError
from clip_serving.repository.spec import SPEC_FILE, ModelSpec
from clip_serving.server.embedded import ServerOptions, TritonServer
from testing.fake_gcs import FakeGcs
from testing.scenes import SCENES, write_photos
from tools.demo.console import Console, DemoError, run_program
from tools.demo.neighbours import Embeddings, Neighbours, nearest, read_embeddings, same_scene
from tools.demo.page import write_page

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = ROOT / "build" / "demo"
REPOSITORY = BUILD / "model_repository"
OUT = BUILD / "embeddings.parquet"
PAGE = BUILD / "similar.html"
BUCKET = "album"
_SHOWN = 60
_RANDOM = (
    "RANDOM WEIGHTS: no model hub was in reach, so these embeddings are NOT CLIP's. Shots of one scene "
    "may still find each other; what a picture means plays no part. With a hub in reach, "
    "`rm -r build/demo` and `make demo` take the real weights."
)
_EMBED_HINT = "What clip-embed finished is kept beside its output; `make demo` runs it again."


def main() -> int:
    parser = argparse.ArgumentParser("make demo", description=__doc__)
    parser.add_argument("--photos", type=Path, metavar="DIR", help="a folder of your own photos")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="      %(message)s")
    interrupt = _Interrupt()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    console = Console(steps=6)
    try:
        run(console, options.photos)
    except KeyboardInterrupt:
        console.line("stopped; nothing is left running", indent="")
        return 130
    except (DemoError, ClipServingError, OSError) as error:
        console.line("", indent="")
        print(f"the demo failed at {error}\nNothing is left running.", file=sys.stderr)
        return 1
    return 0


class _Interrupt:
    """Stops the demo, once: the stopping is bounded in time, and a second Ctrl-C must not cut it short."""

    def __init__(self) -> None:
        self._stopping = False

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        del signum, frame
        if not self._stopping:
            self._stopping = True
            raise KeyboardInterrupt


def run(console: Console, own: Path | None) -> None:
    """All six steps; `own` is the user's folder, or None for pictures of ours."""
    with console.step("photos", "PHOTOS=dir takes a folder of yours."):
        folder = _photos(console, own)
        names = _files(folder)
    with console.step(
        "export ViT-B-32 from open_clip to ONNX",
        "`rm -r build/demo` begins anew, `rm -r .venv-export` installs the exporter again.",
    ):
        spec = _export()
        console.line(f"{spec.model}, {spec.pretrained}; weights sha256 {spec.weights_sha256[:12]}")
        if spec.random_weights:
            _shout(console)
    with ExitStack() as running:
        with console.step("upload to a bucket", "`rm -r .venv` installs fake-gcs-server again."):
            bucket = running.enter_context(FakeGcs())
            _upload(console, bucket, folder, names)
        with console.step("start tritonserver", f"To see more: {_serve_by_hand()}"):
            options = ServerOptions(on_progress=lambda s: console.progress(f"loading the models, {s:.0f} s"))
            server = running.enter_context(TritonServer(REPOSITORY, options))
            console.line(f"ready at {server.grpc_url}, and right: the reference embedding is open_clip's")
        with console.step(f"clip-embed gs://{BUCKET} --out {OUT.relative_to(ROOT)}", _EMBED_HINT):
            before = _encoder_counts(server)
            summary = _embed(server, bucket)
            after = _encoder_counts(server)
    photos, executions = after[0] - before[0], after[1] - before[1]
    with console.step("nearest neighbours", f"{OUT.relative_to(ROOT)} holds what was embedded."):
        _report(console, summary, photos / max(1, executions), folder, spec, ours=own is None)
    console.line(
        f"\nLook at {PAGE.relative_to(ROOT)}; the embeddings are in {OUT.relative_to(ROOT)}.\n"
        f"All servers are stopped. {console.elapsed():.0f} s in all.",
        indent="",
    )


def _photos(console: Console, own: Path | None) -> Path:
    if own is not None:
        if not own.is_dir():
            raise DemoError(f"{own} is not a folder: give one with PHOTOS=dir")
        return own
    folder = BUILD / "photos"
    write_photos(folder, lambda done, of: console.progress(f"making photo {done} of {of}"))
    console.line("camera-like, made from scikit-image's pictures, three shots of each; thanks to:")
    for scene in SCENES:
        console.line(f"  {scene.name}: {scene.credit}")
    return folder


def _files(folder: Path) -> list[str]:
    files = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    names = [path.as_posix() for path in files if not any(part.startswith(".") for part in path.parts)]
    if not names:
        raise DemoError(f"{folder} holds no file: put some photos there")
    return names


def _export() -> ModelSpec:
    exporter = Path(os.environ.get("CLIP_EXPORT", ROOT / ".venv-export" / "bin" / "clip-export"))
    if not exporter.exists():
        raise DemoError(f"{exporter} is missing: `make setup-export` makes it")
    REPOSITORY.mkdir(parents=True, exist_ok=True)
    run_program(
        [
            *(str(exporter.with_name("python")), str(ROOT / "deploy" / "export_once.py")),
            *(f"--repository={REPOSITORY}", f"--command={exporter}", "--"),
            *("--model=ViT-B-32", "--pretrained=laion2b_s34b_b79k", "--fallback-random"),
            # The CPU's graph alone: the demo has no GPU to run the others on.
            "--formats=onnx-fp32",
        ]
    )
    newest = max(
        REPOSITORY.glob(f"{defaults.ENCODER}/[0-9]*/{SPEC_FILE}"), key=lambda path: int(path.parent.name)
    )
    return ModelSpec.load(newest)


def _serve_by_hand() -> str:
    return f"{Path(sys.executable).with_name('clip-serve')} --repository {REPOSITORY}"


def _shout(console: Console) -> None:
    line = "!" * 78
    for text in (line, "RANDOM WEIGHTS: no model hub was in reach. These are NOT CLIP's embeddings.", line):
        console.line(text)


def _upload(console: Console, bucket: FakeGcs, folder: Path, names: list[str]) -> None:
    size = 0
    for done, name in enumerate(names, 1):
        data = (folder / name).read_bytes()
        bucket.upload(BUCKET, name, data)
        size += len(data)
        console.progress(f"{done} of {len(names)}")
    console.line(f"{len(names)} objects, {size / 1e6:.0f} MB")


def _embed(server: TritonServer, bucket: FakeGcs) -> dict[str, Any]:
    program = str(Path(sys.executable).with_name("clip-embed"))
    quiet = [] if sys.stderr.isatty() else ["--quiet"]
    output = run_program(
        [
            program,
            f"gs://{BUCKET}",
            f"--out={OUT}",
            f"--url={server.grpc_url}",
            "--overwrite",
            "--json",
            *quiet,
        ],
        allowed=(0, 1),  # 1: some objects failed, as one of ours does
        environment={"STORAGE_EMULATOR_HOST": bucket.url},
    )
    summary: dict[str, Any] = json.loads(output)
    return summary


def _encoder_counts(server: TritonServer) -> tuple[int, int]:
    """Photos, and executions, of the encoder since the server's start, by Triton's own count."""
    with InferenceServerClient(server.grpc_url) as client:
        (model,) = client.get_inference_statistics(defaults.ENCODER).model_stats
    return int(model.inference_count), int(model.execution_count)


def _report(
    console: Console,
    summary: dict[str, Any],
    mean_batch: float,
    folder: Path,
    spec: ModelSpec,
    *,
    ours: bool,
) -> None:
    found = read_embeddings(OUT)
    rows = nearest(found.names, found.vectors)
    rate = f"{summary['photos_per_second']:.1f} photos/s"
    _print_neighbours(console, rows, ours=ours)
    if spec.random_weights:
        _shout(console)
    _print_summary(console, summary, found, rate, mean_batch)
    write_page(
        PAGE,
        rows,
        folder,
        facts=[
            ("model", f"{spec.model}, {spec.pretrained}"),
            ("photos", f"{len(rows)} embedded, {len(found.failures)} failed"),
            ("throughput on this CPU", rate),
            ("encoder's mean batch", f"{mean_batch:.1f}"),
            ("weights sha256", spec.weights_sha256[:12]),
        ],
        failures=found.failures,
        warning=_RANDOM if spec.random_weights else "",
        credits="Pictures: " + "; ".join(f"{s.name}: {s.credit}" for s in SCENES) if ours else "",
    )


def _print_neighbours(console: Console, rows: list[Neighbours], *, ours: bool) -> None:
    width = max((len(row.name) for row in rows), default=0)
    for row in rows[:_SHOWN]:
        name, cosine = row.nearest[0] if row.nearest else ("no other photo", float("nan"))
        console.line(f"{row.name:{width}}  ->  {name:{width}}  {cosine:.4f}")
    if len(rows) > _SHOWN:
        console.line(f"... and {len(rows) - _SHOWN} more, in {PAGE.relative_to(ROOT)}")
    if ours:
        console.line(f"nearest neighbour of the same scene: {same_scene(rows)} of {len(rows)} photos")


def _print_summary(
    console: Console, summary: dict[str, Any], found: Embeddings, rate: str, mean_batch: float
) -> None:
    console.line(
        f"{len(found.names)} photos embedded, {summary['megabytes']:.0f} MB: {rate} from the bucket to "
        f"Parquet; the encoder's mean batch was {mean_batch:.1f}"
    )
    for name, reason in found.failures:
        console.line(f"failed: {name}: {reason}")


if __name__ == "__main__":
    sys.exit(main())
