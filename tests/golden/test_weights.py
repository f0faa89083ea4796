"""Weights and the tower that they were trained in: what open_clip only warns of is refused."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch

from clip_export.cli import main
from clip_export.errors import HubUnreachable, LoadError
from clip_export.load import load
from testing import towers


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def quick_gelu_pairs() -> list[tuple[str, str]]:
    """Every (model, tag) of open_clip's own table where the weights want QuickGELU and the model has none."""
    return [
        (name, tag)
        for name, tag in open_clip.list_pretrained()
        if open_clip.get_pretrained_cfg(name, tag).get("quick_gelu", False)
        and not open_clip.get_model_config(name).get("quick_gelu", False)
    ]


def test_openai_weights_in_a_tower_without_quick_gelu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", "ViT-B-32", "--pretrained", "openai", "--fallback-random"]
    assert main([*arguments, "--repository", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "'openai' were trained with QuickGELU, which ViT-B-32 does not have" in said
    assert "use --model ViT-B-32-quickgelu" in said
    assert "RANDOM WEIGHTS" not in said


def test_each_pair_that_open_clip_warns_about_is_rejected_with_an_alternative() -> None:
    pairs = quick_gelu_pairs()
    assert ("ViT-B-32", "openai") in pairs
    for name, tag in pairs:
        with pytest.raises(LoadError, match=f"use --model {name}-quickgelu"):
            load(name, tag)
        assert tag in open_clip.list_pretrained_tags_by_model(f"{name}-quickgelu")


def test_the_variant_with_quick_gelu_reaches_the_hub(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--model", "ViT-B-32-quickgelu", "--pretrained", "openai"]
    assert main([*model, "--repository", str(tmp_path)]) == HubUnreachable.exit_status == 3
    assert "the hub does not answer" in capsys.readouterr().err


def test_none_gives_random_weights_to_a_local_model_too(tmp_path: Path) -> None:
    """Its own weights would be served as "random" otherwise."""
    config = json.loads((Path(towers.__file__).parent / f"{towers.SMALL}.json").read_text())
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    torch.save(
        load(towers.SMALL, "none", seed=1).model.state_dict(), tmp_path / "open_clip_pytorch_model.bin"
    )
    name = f"local-dir:{tmp_path}"
    own, first, again, other = load(name), load(name, "none"), load(name, "none"), load(name, "none", seed=1)
    assert (own.spec.pretrained, own.spec.random_weights) == ("local", False)
    assert (first.spec.pretrained, first.spec.random_weights) == ("random:seed=0", True)
    assert first.spec.weights_sha256 == again.spec.weights_sha256
    # With the seed that its weights were made with, they come out again.
    assert first.spec.weights_sha256 != own.spec.weights_sha256 == other.spec.weights_sha256
