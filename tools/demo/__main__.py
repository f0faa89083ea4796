"""Exports, serves, uploads, embeds and shows the result; stops everything that it started."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tritonclient.grpc import InferenceServerClient

from clip_serving import defaults
from clip_serving.errors import ClipServingError
from clip_serving.repository.spec import SPEC_FILE, ModelSpec
from clip_serving.server.embedded import ServerOptions, TritonServer
from testing import classifier
from testing.fake_gcs import FakeGcs
from testing.processes import interrupt_once
from testing.scenes import SCENES, write_photos
from tools.demo.neighbors import Embeddings, Neighbors, nearest, read_embeddings, same_scene
from tools.demo.page import write_page
from tools.demo.steps import DemoError, Steps, run_program, run_to_status

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = ROOT / "build" / "demo"
REPOSITORY = BUILD / "model_repository"
OUT = BUILD / "embeddings.parquet"
PAGE = BUILD / "similar.html"
CLASSIFIER = BUILD / "classifier"
BUCKET = "album"
_SHOWN = 60
_HUB_UNREACHABLE = 3
"""clip-export's exit status."""
_RANDOM = (
    "RANDOM WEIGHTS: no model hub could be reached, so these embeddings are NOT CLIP's. Shots of one scene "
    "may still find each other, but the embeddings know nothing of what a picture shows. When a hub can be "
    "reached, `rm -r build/demo` and `make demo` use the real weights."
)
_CLASSIFIER = (
    f"NOT CLIP: no model hub could be reached, so these are embeddings of {classifier.NAME}. Similar "
    "pictures find each other, but texts cannot. When a hub can be reached, `rm -r build/demo` and `make "
    "demo` use CLIP."
)
_EMBED_HINT = "Finished embeddings are kept next to the output; `make demo` runs clip-embed again."


def main() -> int:
    parser = argparse.ArgumentParser("make demo", description=__doc__)
    parser.add_argument("--photos", type=Path, metavar="DIR", help="a folder of your own photos")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="      %(message)s")
    interrupt_once()
    steps = Steps(6)
    try:
        run(steps, options.photos)
    except KeyboardInterrupt:
        steps.line("stopped; nothing is left running", indent="")
        return 130
    except (DemoError, ClipServingError, OSError) as error:
        steps.line(indent="")
        print(f"the demo failed at {error}\nNothing is left running.", file=sys.stderr)
        return 1
    return 0


def run(steps: Steps, own: Path | None) -> None:
    """All six steps; `own` is the user's folder, None to make photos."""
    with steps.step("photos", "PHOTOS=dir uses a folder of yours."):
        folder = _photos(steps, own)
        names = _files(folder)
    with steps.step(
        "export ViT-B-32 from open_clip to ONNX",
        "`rm -r build/demo` starts over, `rm -r .venv-export` reinstalls the exporter.",
    ):
        spec = _export()
        steps.line(f"{_name(spec)}; weights sha256 {spec.weights_sha256[:12]}")
        _shout(steps, spec)
    with ExitStack() as running:
        with steps.step("upload to a bucket", "`rm -r .venv` and `make setup` reinstall fake-gcs-server."):
            bucket = running.enter_context(FakeGcs())
            _upload(steps, bucket, folder, names)
        with steps.step("start tritonserver", f"For more output, run: {_serve_by_hand()}"):
            options = ServerOptions(on_progress=lambda s: steps.doing(f"loading the models, {s:.0f} s"))
            server = running.enter_context(TritonServer(REPOSITORY, options))
            steps.line(f"ready at {server.grpc_url}; its reference embedding matches open_clip's")
        with steps.step(f"clip-embed gs://{BUCKET} --out {OUT.relative_to(ROOT)}", _EMBED_HINT):
            before = _encoder_counts(server)
            summary = _embed(server, bucket)
            after = _encoder_counts(server)
    photos, executions = after[0] - before[0], after[1] - before[1]
    with steps.step("nearest neighbors", f"{OUT.relative_to(ROOT)} holds the embeddings."):
        _report(steps, summary, photos / max(1, executions), folder, spec, ours=own is None)
    steps.line(
        f"\nLook at {PAGE.relative_to(ROOT)}; the embeddings are in {OUT.relative_to(ROOT)}.\n"
        f"All servers are stopped. {steps.elapsed_s():.0f} s in all.",
        indent="",
    )


def _photos(steps: Steps, own: Path | None) -> Path:
    if own is not None:
        if not own.is_dir():
            raise DemoError(f"{own} is not a folder. Give one with PHOTOS=dir")
        return own
    folder = BUILD / "photos"
    write_photos(folder, lambda done, of: steps.doing(f"making photo {done} of {of}"))
    steps.line("camera-like photos made from scikit-image's pictures, three shots of each; credits:")
    for scene in SCENES:
        steps.line(f"  {scene.name}: {scene.credit}")
    return folder


def _files(folder: Path) -> list[str]:
    files = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    names = [path.as_posix() for path in files if not any(part.startswith(".") for part in path.parts)]
    if not names:
        raise DemoError(f"{folder} is empty. Put some photos there")
    return names


def _export() -> ModelSpec:
    """Exports ViT-B-32; without a hub an image classifier; without its package, random weights."""
    exporter = Path(os.environ.get("CLIP_EXPORT", ROOT / ".venv-export" / "bin" / "clip-export"))
    if not exporter.exists():
        raise DemoError(f"{exporter} is missing. Create it with `make setup-export`")
    REPOSITORY.mkdir(parents=True, exist_ok=True)
    python = str(exporter.with_name("python"))

    def export(*model: str) -> bool:
        """Whether it was exported, now or by an earlier run of the demo; False if the hub does not answer."""
        status = run_to_status(
            [
                *(python, str(ROOT / "deploy" / "export_once.py")),
                *(f"--repository={REPOSITORY}", f"--command={exporter}", "--", *model),
                # The demo has no GPU to run the other formats on.
                *("--towers=image", "--formats=onnx-fp32"),
            ],
            allowed=(0, _HUB_UNREACHABLE),
        )
        return status == 0

    written = (CLASSIFIER / classifier.HEAD_FILE).exists()  # by an earlier run that reached no hub
    if written or not export("--model=ViT-B-32", "--pretrained=laion2b_s34b_b79k"):
        write = [python, str(ROOT / "testing" / "classifier.py"), str(CLASSIFIER)]
        if written or run_to_status(write, allowed=(0, 1)) == 0:
            export(f"--model=local-dir:{CLASSIFIER}")
        else:
            export("--model=ViT-B-32", "--pretrained=none")
    newest = max(
        REPOSITORY.glob(f"{defaults.ENCODER}/[0-9]*/{SPEC_FILE}"), key=lambda path: int(path.parent.name)
    )
    return ModelSpec.load(newest)


def _serve_by_hand() -> str:
    return f"{Path(sys.executable).with_name('clip-serve')} --repository {REPOSITORY}"


def _name(spec: ModelSpec) -> str:
    return classifier.NAME if _is_classifier(spec) else f"{spec.model}, {spec.pretrained}"


def _is_classifier(spec: ModelSpec) -> bool:
    return spec.model == f"local-dir:{CLASSIFIER}"


def _shout(steps: Steps, spec: ModelSpec) -> None:
    """Says that the embeddings are not CLIP's, if they are not."""
    why = "RANDOM WEIGHTS" if spec.random_weights else f"NOT CLIP but {classifier.NAME}"
    if spec.random_weights or _is_classifier(spec):
        line = "!" * 78
        for text in (line, f"{why}: no model hub reachable.", line):
            steps.line(text)


def _upload(steps: Steps, bucket: FakeGcs, folder: Path, names: list[str]) -> None:
    size = 0
    for done, name in enumerate(names, 1):
        data = (folder / name).read_bytes()
        bucket.upload(BUCKET, name, data)
        size += len(data)
        steps.doing(f"{done} of {len(names)}")
    steps.line(f"objects: {len(names)}, {size / 1e6:.0f} MB")


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
    """Photos and executions of the encoder since the server's start, as Triton counts them."""
    with InferenceServerClient(server.grpc_url) as client:
        (model,) = client.get_inference_statistics(defaults.ENCODER).model_stats
    return int(model.inference_count), int(model.execution_count)


def _report(
    steps: Steps,
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
    _print_neighbors(steps, rows, ours=ours)
    _shout(steps, spec)
    _print_summary(steps, summary, found, rate, mean_batch)
    write_page(
        PAGE,
        rows,
        folder,
        facts=[
            ("model", _name(spec)),
            ("photos", f"{len(rows)} embedded, {len(found.failures)} failed"),
            ("throughput on this CPU", rate),
            ("encoder's mean batch", f"{mean_batch:.1f}"),
            ("weights sha256", spec.weights_sha256[:12]),
        ],
        failures=found.failures,
        warning=_RANDOM if spec.random_weights else _CLASSIFIER if _is_classifier(spec) else "",
        credits="Pictures: " + "; ".join(f"{s.name}: {s.credit}" for s in SCENES) if ours else "",
    )


def _print_neighbors(steps: Steps, rows: list[Neighbors], *, ours: bool) -> None:
    width = max((len(row.name) for row in rows), default=0)
    for row in rows[:_SHOWN]:
        name, cosine = row.nearest[0] if row.nearest else ("no other photo", float("nan"))
        steps.line(f"{row.name:{width}}  ->  {name:{width}}  {cosine:.4f}")
    if len(rows) > _SHOWN:
        steps.line(f"... and {len(rows) - _SHOWN} more, in {PAGE.relative_to(ROOT)}")
    if ours:
        steps.line(f"{same_scene(rows)} of {len(rows)} photos have a nearest neighbor of the same scene")


def _print_summary(
    steps: Steps, summary: dict[str, Any], found: Embeddings, rate: str, mean_batch: float
) -> None:
    steps.line(
        f"photos embedded: {len(found.names)}, {summary['megabytes']:.0f} MB: {rate} from the bucket to "
        f"Parquet; the encoder's mean batch was {mean_batch:.1f}"
    )
    for name, reason in found.failures:
        steps.line(f"failed: {name}: {reason}")


if __name__ == "__main__":
    sys.exit(main())
