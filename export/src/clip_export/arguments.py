"""The options of `clip-export`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from clip_preprocess import defaults as preprocess_defaults
from clip_preprocess.settings import Quality
from clip_serving import defaults

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

exit status: 0 published, 1 an artefact differs from open_clip (nothing published), 130 stopped by Ctrl-C,
2 anything else.
"""

FORMATS = ("onnx-fp32", "onnx-fp16", "torchscript", "onnx-int8")
"""In the order in which they are written: int8 is made of fp32."""


def parser() -> argparse.ArgumentParser:
    """Settings of the deployment that are not given are None: the repository's then hold."""
    parser = argparse.ArgumentParser(
        "clip-export",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_model(parser)
    _add_settings(
        parser.add_argument_group(
            "settings of the deployment",
            "those that are not given stay as the repository's configs have them, or are the defaults",
        )
    )
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
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
    add("--verify-photos", type=Path, metavar="DIR",
        help="photos like yours to judge int8 and bf16 by; eight of them, as the model sees them, stay in "
        "the repository (default: some that come along)")  # fmt: skip
    add("--activate", type=int, metavar="VERSION", help="serve an earlier version again; exports nothing")
    add("--json", action="store_true", help="print a summary as JSON on standard output")


def _add_settings(group: argparse._ArgumentGroup) -> None:
    """Named as the fields of DeploymentSettings and DecodeLimits, which is how they are found there."""
    add = group.add_argument
    add("--preprocess-instances", type=int, metavar="N",
        help=f"processes that decode (default: {defaults.PREPROCESS_INSTANCES}); scaled apart from the "
        "encoder")  # fmt: skip
    add("--encoder-instances", type=int, metavar="N",
        help=f"default: {defaults.ENCODER_INSTANCES}")  # fmt: skip
    add("--encoder-threads", type=int, metavar="N",
        help=f"of each CPU encoder instance (default: {defaults.ENCODER_THREADS})")  # fmt: skip
    add("--encoder-precision", choices=get_args(defaults.EncoderPrecision),
        help="of a CPU encoder: auto is bf16 where the serving CPU has it and it proves right there, else "
        f"fp32; int8 is fastest and further off (default: {defaults.ENCODER_PRECISION})")  # fmt: skip
    add("--quality", choices=get_args(Quality),
        help="exact: pixels bit for bit as open_clip's; high, fast: from JPEGs read at a smaller scale, for "
        f"a third of the CPU (default: {defaults.QUALITY})")  # fmt: skip
    add("--ignore-exif-orientation", dest="apply_exif_orientation", action="store_false", default=None,
        help="embed photos as they are stored, as open_clip does, not as the camera was held")  # fmt: skip
    add("--apply-exif-orientation", dest="apply_exif_orientation", action="store_true", default=None,
        help="the opposite, and the default")  # fmt: skip
    add("--allow-truncated", action=argparse.BooleanOptionalAction, default=None,
        help="embed photos whose data ends early all the same; their error says so beside the embedding "
        "(default: refuse them)")  # fmt: skip
    add("--max-bytes", type=int, metavar="N",
        help=f"largest encoded photo (default: {preprocess_defaults.MAX_BYTES})")  # fmt: skip
    add("--max-pixels", type=int, metavar="N",
        help=f"most pixels decoded for one photo (default: {preprocess_defaults.MAX_PIXELS})")  # fmt: skip
    add("--decode-timeout", dest="decode_timeout_s", type=float, metavar="SECONDS",
        help=f"longest time for one photo (default: {preprocess_defaults.DECODE_TIMEOUT_S:g})")  # fmt: skip
    add("--max-queue-size", type=int, metavar="N",
        help="requests that may wait; one more is refused and retried (default: "
        f"{defaults.MAX_QUEUE_SIZE})")  # fmt: skip


def _formats(text: str) -> tuple[str, ...]:
    chosen = tuple(part.strip() for part in text.split(","))
    unknown = set(chosen) - set(FORMATS)
    if unknown or not chosen:
        raise argparse.ArgumentTypeError(f"not among {', '.join(FORMATS)}: {', '.join(sorted(unknown))}")
    if "onnx-int8" in chosen and "onnx-fp32" not in chosen:
        raise argparse.ArgumentTypeError("onnx-int8 is made of onnx-fp32: name both")
    return tuple(name for name in FORMATS if name in chosen)
