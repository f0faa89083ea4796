"""`Preprocessor` in place of open_clip's transform: equal tensors, and the README's examples as written."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clip_preprocess import Preprocessor
from testing.pictures import camera_photos, encoded, odd_pictures, source_picture

# The reference warns about palettes with transparency, which both ignore.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

torch = pytest.importorskip("torch")
open_clip = pytest.importorskip("open_clip")

README = Path("preprocess/README.md")
PICTURES = odd_pictures() | {
    f"camera_{index}.jpg": photo for index, photo in enumerate(camera_photos(2, seed=6))
}
CONFIGS: list[dict[str, Any]] = [
    {},
    {"size": 256, "interpolation": "bilinear", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
    {"size": (160, 224), "resize_mode": "longest", "fill_color": 127},
    {"size": (224, 224), "resize_mode": "squash"},
]


def reference(config: dict[str, Any]) -> Any:
    """open_clip's own transform for the config."""
    transform = open_clip.transform
    return transform.image_transform_v2(transform.PreprocessCfg(**config), is_train=False)


@pytest.mark.parametrize("config", CONFIGS)
def test_the_tensor_is_open_clips(config: dict[str, Any]) -> None:
    preprocess = Preprocessor.for_open_clip(config, apply_exif_orientation=False)
    transform = reference(config)
    for name, data in PICTURES.items():
        expected = transform(Image.open(io.BytesIO(data))).numpy()
        np.testing.assert_array_equal(preprocess(data), expected, err_msg=name)


@pytest.mark.filterwarnings("ignore")  # open_clip's and torch's own, about their own calls
def test_the_readmes_examples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 2
    model = open_clip.create_model("ViT-S-32-alt").eval()
    photo = encoded(source_picture("coffee.png"), "JPEG")
    (tmp_path / "photo.jpg").write_bytes(photo)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"model": model}
    with torch.inference_mode():
        for block in blocks:
            exec(compile(block, str(README), "exec"), names)
        transform = reference(dict(model.visual.preprocess_cfg))
        expected = model.encode_image(transform(Image.open(io.BytesIO(photo)))[None])
    torch.testing.assert_close(names["embedding"], expected, rtol=0, atol=0)
    good, bad = capsys.readouterr().out.splitlines()
    assert good.startswith("JPEG, ")
    assert "not one of" in bad
    assert names["pixels"][0].any()
