"""`clip-export`: an open_clip image tower into a Triton model repository."""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from clip_export.errors import ExportError, HubUnreachable
from clip_serving import defaults
from clip_serving.errors import ClipServingError
from clip_serving.settings import DecodeLimits, DeploymentSettings, Quality
from clip_serving.spec import ModelSpec

_DESCRIPTION = """\
Writes an open_clip image tower as ONNX (fp32 for a CPU, fp16 for a GPU) and TorchScript, holds each
against open_clip's own encode_image, and publishes them as a new version of clip_image_encoder.
Nothing of the repository changes until all of it is right; earlier versions stay.
"""
_EPILOG = """\
examples:
  clip-export --model ViT-B-32 --pretrained laion2b_s34b_b79k --repository model_repository
  clip-export --model hf-hub:timm/ViT-B-16-SigLIP-256 --repository model_repository
  clip-export --model ViT-L-14 --pretrained /weights/mine.pt --repository model_repository
  clip-export --model ViT-B-32 --pretrained none --seed 0 --repository /tmp/trial
  clip-export --activate 1 --repository model_repository          (back to an earlier version)

exit status: 0 published, 1 an artefact differs from open_clip (nothing published), 2 anything else.
"""
_LOUD = """\
************************************************************************
*  RANDOM WEIGHTS: {why:51}  *
*  The embeddings are NOT CLIP's. They prove the service, nothing else. *
************************************************************************"""

FORMATS = ("onnx-fp32", "onnx-fp16", "torchscript")


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    try:
        summary = _activate(options) if options.activate else _export(options)
    except (ExportError, ClipServingError) as error:
        _say(f"error: {error}")
        return getattr(error, "exit_status", 2)
    except KeyboardInterrupt:
        _say("stopped; nothing was published")
        return 130
    if options.json:
        print(json.dumps(summary))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "clip-export",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", default="ViT-B-32", help="open_clip's name, or hf-hub:... (default: %(default)s)")
    add(
        "--pretrained",
        default="laion2b_s34b_b79k",
        help="a tag of open_clip, a checkpoint file, or `none` for random weights (default: %(default)s)",
    )
    add("--seed", type=int, default=0, help="of random weights (default: %(default)s)")
    add("--preprocess-from", metavar="TAG", help="take mean, std and resize mode of this pretrained tag")
    add(
        "--fallback-random",
        action="store_true",
        help="use random weights, loudly, where the hub does not answer (for trying things out)",
    )
    add("--repository", type=Path, required=True, metavar="DIR", help="made where it does not exist")
    add(
        "--formats",
        type=_formats,
        default=FORMATS,
        metavar="LIST",
        help=f"comma-separated, of {','.join(FORMATS)} (default: all)",
    )
    add(
        "--preprocess-instances",
        type=int,
        default=defaults.PREPROCESS_INSTANCES,
        metavar="N",
        help="processes that decode (default: %(default)s); scaled apart from the encoder",
    )
    add(
        "--encoder-instances",
        type=int,
        default=defaults.ENCODER_INSTANCES,
        metavar="N",
        help="default: %(default)s",
    )
    add(
        "--quality",
        choices=get_args(Quality),
        default=defaults.QUALITY,
        help="exact: pixels bit for bit as open_clip's; high, fast: from JPEGs read at a smaller scale, for "
        "a third of the CPU (default: %(default)s)",
    )
    add(
        "--ignore-exif-orientation",
        action="store_true",
        help="embed photos as they are stored, as open_clip does, not as the camera was held",
    )
    add(
        "--allow-truncated",
        action="store_true",
        help="embed photos whose data ends early all the same; their error says so beside the embedding",
    )
    add("--max-bytes", type=int, default=defaults.MAX_BYTES, metavar="N",
        help="largest encoded photo (default: %(default)s)")  # fmt: skip
    add("--max-pixels", type=int, default=defaults.MAX_PIXELS, metavar="N",
        help="most pixels decoded for one photo (default: %(default)s)")  # fmt: skip
    add("--decode-timeout", type=float, default=defaults.DECODE_TIMEOUT_S, metavar="SECONDS",
        help="longest time for one photo (default: %(default)g)")  # fmt: skip
    add("--max-queue-size", type=int, default=defaults.MAX_QUEUE_SIZE, metavar="N",
        help="requests that may wait; one more is refused and retried (default: %(default)s)")  # fmt: skip
    add("--encoder-threads", type=int, default=defaults.ENCODER_THREADS, metavar="N",
        help="of each CPU encoder instance (default: %(default)s)")  # fmt: skip
    add("--activate", type=int, metavar="VERSION", help="serve an earlier version again; exports nothing")
    add("--json", action="store_true", help="print a summary as JSON on standard output")
    return parser


def _formats(text: str) -> tuple[str, ...]:
    chosen = tuple(part.strip() for part in text.split(","))
    unknown = set(chosen) - set(FORMATS)
    if unknown or not chosen:
        raise argparse.ArgumentTypeError(f"not among {', '.join(FORMATS)}: {', '.join(sorted(unknown))}")
    return chosen


def _deployment(options: argparse.Namespace) -> DeploymentSettings:
    return DeploymentSettings(
        preprocess_instances=options.preprocess_instances,
        encoder_instances=options.encoder_instances,
        quality=options.quality,
        apply_exif_orientation=not options.ignore_exif_orientation,
        allow_truncated=options.allow_truncated,
        limits=DecodeLimits(options.max_bytes, options.max_pixels, options.decode_timeout),
        max_queue_size=options.max_queue_size,
        encoder_threads=options.encoder_threads,
    )


def _activate(options: argparse.Namespace) -> dict[str, Any]:
    from clip_export.publish import activate

    spec = activate(options.repository, options.activate, _deployment(options))
    _say(f"version {options.activate} ({spec.model}, {spec.pretrained}) is served after a restart")
    return {"version": options.activate, "model": spec.model, "pretrained": spec.pretrained}


def _export(options: argparse.Namespace) -> dict[str, Any]:
    # torch takes seconds to import: --help and a misspelt option need not wait for it.
    from clip_export.publish import publish, staging
    from clip_export.verify import with_reference

    begin = time.monotonic()
    loaded = _load(options)
    spec = with_reference(loaded)
    if spec.random_weights:
        _say(_LOUD.format(why=f"seed {options.seed}, no training."))
    _say(f"{spec.model} ({spec.pretrained}): {_describe(spec)}")
    with staging(options.repository) as folder:
        parities = [parity for name in options.formats for parity in _write_and_verify(name, loaded, folder)]
        version = publish(folder, options.repository, spec, _deployment(options))
    took = time.monotonic() - begin
    _say(f"published version {version} in {options.repository / defaults.ENCODER} after {took:.0f} s")
    return {
        "version": version,
        "model": spec.model,
        "pretrained": spec.pretrained,
        "random_weights": spec.random_weights,
        "weights_sha256": spec.weights_sha256,
        "embedding_dim": spec.embedding_dim,
        "seconds": round(took, 1),
        "parity": [vars(parity) for parity in parities],
    }


def _load(options: argparse.Namespace) -> Any:
    from clip_export.load import load

    def attempt(pretrained: str) -> Any:
        download = " (without a hub in reach, giving up takes a minute)" if pretrained != "none" else ""
        _say(f"loading {options.model} with {pretrained}{download} ...")
        return load(options.model, pretrained, seed=options.seed, preprocess_from=options.preprocess_from)

    try:
        return attempt(options.pretrained)
    except HubUnreachable as error:
        if not options.fallback_random:
            raise
        _say(f"{error}\n--fallback-random was given, so going on without them.")
        return attempt("none")


def _write_and_verify(name: str, loaded: Any, folder: Path) -> list[Any]:
    from clip_export import graph, verify

    half = name == "onnx-fp16"
    # half() changes a module in place, and the loaded model stays the reference.
    visual = copy.deepcopy(loaded.model.visual) if half else loaded.model.visual
    tower = graph.ServedTower(visual, loaded.spec, half=half).eval()
    file = {
        "onnx-fp32": defaults.ONNX_FP32_FILE,
        "onnx-fp16": defaults.ONNX_FP16_FILE,
        "torchscript": defaults.TORCHSCRIPT_FILE,
    }[name]
    path = folder / file
    begin = time.monotonic()
    if name == "torchscript":
        graph.write_torchscript(tower, loaded.spec, path)
        encoder: Callable[..., Any] = verify.torchscript_encoder(path)
    else:
        graph.write_onnx(tower, loaded.spec, path)
        encoder = verify.onnx_encoder(path)
    _say(f"wrote {file}: {path.stat().st_size / 1e6:.0f} MB in {time.monotonic() - begin:.0f} s")
    tolerance = verify.FP16_TOLERANCE if half else verify.FP32_TOLERANCE
    return verify.verify(name, encoder, loaded, tolerance, _say)


def _describe(spec: ModelSpec) -> str:
    height, width = spec.image_size
    return (
        f"{height}x{width} pixels, {spec.resize_mode}, {spec.interpolation}, "
        f"{spec.embedding_dim} dimensions, weights sha256 {spec.weights_sha256[:12]}"
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
