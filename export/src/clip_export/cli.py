"""`clip-export`: an open_clip image tower into a Triton model repository."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any, get_args

from clip_export.errors import ExportError, HubUnreachable
from clip_serving import defaults
from clip_serving.errors import ClipServingError
from clip_serving.settings import DecodeLimits, DeploymentSettings, Quality
from clip_serving.spec import ModelSpec

_DESCRIPTION = """\
Writes an open_clip image tower as ONNX (fp32 and int8 for a CPU, fp16 for a GPU) and TorchScript, holds
each against open_clip's own encode_image, and publishes them as a new version of clip_image_encoder.
Nothing of the repository changes until all of it is right; earlier versions stay. int8 is published only
where its cosine to fp32 is at least 0.99 on real photos, and served only to who asks for it.
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

FORMATS = ("onnx-fp32", "onnx-fp16", "torchscript", "onnx-int8")
"""In the order in which they are written: int8 is made of fp32."""


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
    add(
        "--encoder-precision",
        choices=get_args(defaults.EncoderPrecision),
        default=defaults.ENCODER_PRECISION,
        help="of a CPU encoder: auto is bf16 where the serving CPU has it and it proves right there, else "
        "fp32; int8 is fastest and further off (default: %(default)s)",
    )
    add("--verify-photos", type=Path, metavar="DIR",
        help="photos like yours to judge int8 and bf16 by; eight of them, as the model sees them, stay in "
        "the repository (default: some that come along)")  # fmt: skip
    add("--activate", type=int, metavar="VERSION", help="serve an earlier version again; exports nothing")
    add("--json", action="store_true", help="print a summary as JSON on standard output")
    return parser


def _formats(text: str) -> tuple[str, ...]:
    chosen = tuple(part.strip() for part in text.split(","))
    unknown = set(chosen) - set(FORMATS)
    if unknown or not chosen:
        raise argparse.ArgumentTypeError(f"not among {', '.join(FORMATS)}: {', '.join(sorted(unknown))}")
    if "onnx-int8" in chosen and "onnx-fp32" not in chosen:
        raise argparse.ArgumentTypeError("onnx-int8 is made of onnx-fp32: name both")
    return tuple(name for name in FORMATS if name in chosen)


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
        encoder_precision=options.encoder_precision,
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
    if options.encoder_precision == "int8" and "onnx-int8" not in options.formats:
        raise ExportError("--encoder-precision int8 needs onnx-int8 among the --formats")
    loaded = _load(options)
    spec = with_reference(loaded)
    if spec.random_weights:
        _say(_LOUD.format(why=f"seed {options.seed}, no training."))
    _say(f"{spec.model} ({spec.pretrained}): {_describe(spec)}")
    with staging(options.repository) as folder:
        parities = _write_all(options, loaded, folder)
        spec = dataclasses.replace(spec, min_cosine=_least_cosines(parities))
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
        "min_cosine": spec.min_cosine,
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


def _write_all(options: argparse.Namespace, loaded: Any, folder: Path) -> list[Any]:
    """What was asked for, and the proof for those that serve; every line of parity that was found."""
    from clip_export.artefacts import write_and_verify, write_int8
    from clip_export.verify import PROOF_PHOTOS, photo_proof

    found: list[Any] = []
    for name in options.formats:
        if name != "onnx-int8":
            found += write_and_verify(name, loaded, folder, _say)
    if "onnx-fp32" in options.formats:
        photos = photo_proof(loaded, options.verify_photos)
        photos.first(PROOF_PHOTOS).save(folder)
        if "onnx-int8" in options.formats:
            found += write_int8(folder, photos, _say, required=options.encoder_precision == "int8")
    return found


def _least_cosines(parities: list[Any]) -> dict[str, float]:
    """By precision; TorchScript is fp32 as well, but never a CPU's."""
    found: dict[str, float] = {}
    for parity in parities:
        form, _, precision = parity.artefact.partition("-")
        if form == "onnx":
            found[precision] = min(found.get(precision, 1.0), round(parity.min_cosine, 7))
    return found


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
