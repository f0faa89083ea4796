"""The options of `clip-export`."""

from __future__ import annotations

import argparse
from pathlib import Path

from clip_serving.repository.deployment import DEPLOYMENT_FILE
from clip_serving.repository.families.image import IMAGE
from clip_serving.repository.families.text import TEXT
from clip_serving.repository.families.text.settings import TextSettings
from clip_serving.repository.flags import add_flags, add_name
from clip_serving.repository.settings import table
from clip_serving.terminal import Parser

_DESCRIPTION = """\
Writes an open_clip image tower as ONNX (fp32 and int8 for a CPU, fp16 for a GPU) and TorchScript, and the
text tower as ONNX (fp32, fp16) and TorchScript, compares each with open_clip's own embeddings, and publishes
them as new versions of clip_image_encoder and clip_text_encoder. The repository does not change until every
artifact is verified, and earlier versions stay. int8 is published only if its cosine to fp32 is at least 0.99
on real photos; serving it is opt-in.
"""
_EPILOG = """\
examples:
  clip-export --model ViT-B-32 --pretrained laion2b_s34b_b79k --repository model_repository
  clip-export --model hf-hub:timm/ViT-B-16-SigLIP-256 --repository model_repository
  clip-export --model ViT-L-14 --pretrained /weights/mine.pt --repository model_repository
  clip-export --model ViT-B-32 --pretrained none --seed 0 --repository /tmp/trial
  clip-export --model ViT-L-14 --pretrained datacomp_xl_s13b_b90k --name large --repository model_repository
  clip-export --activate 1 --repository model_repository          (back to an earlier version)

exit status: 0 published, 1 an artifact differs from open_clip (nothing published), 3 the model hub does not
answer, 130 stopped by Ctrl-C, 2 anything else.
"""

DEFAULT_PRETRAINED = "laion2b_s34b_b79k"

FORMATS = ("onnx-fp32", "onnx-fp16", "torchscript", "onnx-int8")
"""In the order in which they are written: int8 is made from fp32."""
TEXT_FORMATS = ("onnx-fp32", "onnx-fp16", "torchscript")
TOWERS = ("image", "text")


def parser() -> argparse.ArgumentParser:
    """A setting whose flag is omitted is None: the repository's value does not change."""
    parser = Parser(
        "clip-export",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_model(parser)
    settings = parser.add_argument_group(
        "settings",
        f"written to {DEPLOYMENT_FILE}; a flag that you omit leaves the repository's value unchanged. With "
        "--activate, nothing is exported",
    )
    add_flags(settings, IMAGE, show_defaults=True)
    names = {line.name for line in table(TextSettings)} - {"encoder_version"}  # always the new version
    add_flags(settings, TEXT, names, show_defaults=True)
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--model",
        default="ViT-B-32",
        help="open_clip's name, hf-hub:... or local-dir:... (default: %(default)s)",
    )
    add(
        "--pretrained",
        help="a tag of open_clip, a checkpoint file, or `none` for random weights; models of hf-hub: and "
        f"local-dir: bring their own (default for others: {DEFAULT_PRETRAINED})",
    )
    add("--seed", type=int, default=0, help="seed of random weights (default: %(default)s)")
    add(
        "--force-quick-gelu",
        action="store_true",
        help="the weights were trained with QuickGELU, as OpenAI's, and the model's name does not say so",
    )
    add("--preprocess-from", metavar="TAG", help="use mean, std and resize mode of this pretrained tag")
    add(
        "--fallback-random",
        action="store_true",
        help="use random weights, with a warning, if the hub does not answer (for trials)",
    )
    add("--repository", type=Path, required=True, metavar="DIR", help="created if it does not exist")
    add_name(parser, "serve the model beside those of the repository: as clip_image_NAME and clip_text_NAME, "
        "with settings of their own (default: as clip_image and clip_text)")  # fmt: skip
    add(
        "--formats",
        type=_formats,
        default=FORMATS,
        metavar="LIST",
        help=f"comma-separated, of {','.join(FORMATS)} (default: all)",
    )
    add("--towers", type=_towers, default=None, metavar="LIST",
        help=f"comma-separated, of {','.join(TOWERS)} (default: image, and text where the model has a text "
        "tower that can be served)")  # fmt: skip
    add("--verify-photos", type=Path, metavar="DIR",
        help="photos like yours, to verify int8 and bf16 with; the pixels of eight are stored in the "
        "repository (default: scikit-image's photos)")  # fmt: skip
    add("--json", action="store_true", help="print a summary as JSON on standard output")


def _towers(text: str) -> tuple[str, ...]:
    chosen = tuple(part.strip() for part in text.split(","))
    if unknown := set(chosen) - set(TOWERS):
        raise argparse.ArgumentTypeError(
            f"unknown: {', '.join(sorted(unknown))}. Choose from {', '.join(TOWERS)}"
        )
    if "image" not in chosen:
        raise argparse.ArgumentTypeError("the text tower is exported together with the image tower")
    return chosen


def _formats(text: str) -> tuple[str, ...]:
    chosen = tuple(part.strip() for part in text.split(","))
    unknown = set(chosen) - set(FORMATS)
    if unknown or not chosen:
        raise argparse.ArgumentTypeError(
            f"unknown: {', '.join(sorted(unknown))}. Choose from {', '.join(FORMATS)}"
        )
    if "onnx-int8" in chosen and "onnx-fp32" not in chosen:
        raise argparse.ArgumentTypeError("onnx-int8 is made from onnx-fp32: name both")
    return tuple(name for name in FORMATS if name in chosen)
