"""What a state dict does not hold: the activation, and whether a local model's weights were loaded at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import open_clip
import pytest
import torch

from clip_export.cli import main
from clip_export.errors import HubUnreachable, LoadError
from clip_export.load import LoadedModel, load
from clip_serving.repository.spec import SPEC_FILE, ModelSpec
from testing import towers

CONFIG = json.loads((Path(towers.__file__).parent / f"{towers.SMALL}.json").read_text())


@pytest.fixture(scope="module")
def small() -> LoadedModel:
    return load(towers.SMALL, "none", seed=1)


@pytest.fixture(scope="module")
def checkpoint(small: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "mine.pt"
    torch.save(small.model.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def quick_name(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The small tower as open_clip names the variant with QuickGELU."""
    name = f"{towers.SMALL}-quickgelu"
    folder = tmp_path_factory.mktemp("configs")
    (folder / f"{name}.json").write_text(json.dumps({**CONFIG, "quick_gelu": True}))
    open_clip.add_model_config(folder)
    return name


def local_model(folder: Path, weights: Path | None, **config: object) -> str:
    folder.mkdir()
    text = json.dumps({"model_cfg": {**CONFIG, **config}, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5]}})
    (folder / "open_clip_config.json").write_text(text)
    if weights is not None:
        shutil.copy(weights, folder / "open_clip_pytorch_model.bin")
    return f"local-dir:{folder}"


def row(model: LoadedModel) -> npt.NDArray[np.float32]:
    torch.manual_seed(5)
    found: npt.NDArray[np.float32] = model.encode(torch.rand(1, 3, 224, 224)).numpy()
    return found


def test_the_same_file_with_another_activation_is_another_model(checkpoint: Path, quick_name: str) -> None:
    plain, forced = (
        load(towers.SMALL, str(checkpoint)),
        load(towers.SMALL, str(checkpoint), force_quick_gelu=True),
    )
    named = load(quick_name, str(checkpoint))
    assert [model.spec.activation for model in (plain, forced, named)] == ["gelu", "quick_gelu", "quick_gelu"]
    assert np.array_equal(row(forced), row(named))
    assert not np.allclose(row(plain), row(named), atol=1e-4), "nothing else tells them apart"


def test_a_file_is_warned_about_and_names_the_way_out(checkpoint: Path, quick_name: str) -> None:
    (doubt,) = load(towers.SMALL, str(checkpoint)).doubts
    assert doubt.startswith("mine.pt does not say which activation the weights were trained with")
    assert "has GELU. If they were trained with QuickGELU" in doubt
    assert doubt.endswith("add --force-quick-gelu")
    assert load(towers.SMALL, str(checkpoint), force_quick_gelu=True).doubts == ()
    (doubt,) = load(quick_name, str(checkpoint)).doubts
    assert doubt.endswith(f"use --model {towers.SMALL}")
    assert load(towers.SMALL, "none").doubts == ()


def test_the_command_says_and_records_it(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "--model",
        towers.SMALL,
        "--pretrained",
        str(checkpoint),
        "--formats",
        "torchscript",
        "--json",
    ]
    assert main([*arguments, "--repository", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "warning: mine.pt does not say which activation" in said.err
    assert json.loads(said.out)["activation"] == "gelu"
    assert main([*arguments, "--force-quick-gelu", "--repository", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "warning" not in said.err
    assert json.loads(said.out)["activation"] == "quick_gelu"
    specs = [ModelSpec.load(tmp_path / "clip_image_encoder" / str(n) / SPEC_FILE) for n in (1, 2)]
    assert [spec.activation for spec in specs] == ["gelu", "quick_gelu"]
    assert specs[0].artifacts == {
        "model.pt": {"torch": torch.__version__.partition("+")[0], "oldest_triton": "26.05"}
    }


def test_force_quick_gelu_contradicts_a_tag_that_was_trained_without() -> None:
    with pytest.raises(LoadError, match="'laion2b_s34b_b79k' of ViT-B-32 were trained without QuickGELU"):
        load("ViT-B-32", "laion2b_s34b_b79k", force_quick_gelu=True)


def test_a_resnet_has_its_own_activation() -> None:
    assert load("RN50", "none").spec.activation == "relu"


@pytest.mark.parametrize("pretrained", [None, "laion2b_s34b_b79k"])
def test_a_local_model_has_its_own_weights(
    small: LoadedModel, checkpoint: Path, tmp_path: Path, pretrained: str | None
) -> None:
    name = local_model(tmp_path / "model", checkpoint, quick_gelu=False)
    loaded = load(name, pretrained)
    assert loaded.spec.weights_sha256 == small.spec.weights_sha256
    assert (loaded.spec.pretrained, loaded.spec.random_weights) == ("local", False)
    assert loaded.spec.mean == (0.5, 0.5, 0.5)
    unused = (
        []
        if pretrained is None
        else [f"{name} brings its own weights: --pretrained {pretrained} is not used"]
    )
    assert list(loaded.doubts) == unused


def test_a_local_model_with_pretrained_none_is_random(
    small: LoadedModel, checkpoint: Path, tmp_path: Path
) -> None:
    name = local_model(tmp_path / "model", checkpoint)
    first, again, other = (load(name, "none", seed=seed) for seed in (3, 3, 4))
    assert (first.spec.pretrained, first.spec.random_weights) == ("random:seed=3", True)
    digests = [model.spec.weights_sha256 for model in (first, again, other, small)]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_a_local_config_that_names_no_activation_is_warned_about(checkpoint: Path, tmp_path: Path) -> None:
    name = local_model(tmp_path / "model", checkpoint)
    (doubt,) = load(name).doubts
    assert doubt.startswith(f"the config of {name} does not say which activation")
    quick = local_model(tmp_path / "quick", checkpoint, quick_gelu=True)
    assert (load(quick).spec.activation, load(quick).doubts) == ("quick_gelu", ())


def test_a_local_model_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="has a config but no weights"):
        load(local_model(tmp_path / "model", None))


def test_a_file_for_a_model_with_its_own_weights_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    name = local_model(tmp_path / "model", checkpoint)
    with pytest.raises(LoadError, match=r"brings its own weights, so open_clip would ignore .*mine\.pt"):
        load(name, str(checkpoint))


@pytest.mark.parametrize("pretrained", [None, "none"])
def test_a_hub_model_out_of_reach_is_named(monkeypatch: pytest.MonkeyPatch, pretrained: str | None) -> None:
    """Its config comes from the hub, too."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubUnreachable, match=r"^hf-hub:someone/model must be downloaded"):
        load("hf-hub:someone/model", pretrained)


@pytest.mark.parametrize("config", ["", "{}", '{"model_cfg": {}}'])
def test_a_local_config_that_is_broken_is_named(checkpoint: Path, tmp_path: Path, config: str) -> None:
    name = local_model(tmp_path / "model", checkpoint)
    (tmp_path / "model" / "open_clip_config.json").write_text(config)
    with pytest.raises(LoadError, match=f"^{name} cannot be loaded"):
        load(name)
