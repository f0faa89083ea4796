"""Tokenizers of Hugging Face: the served ids are open_clip's, and so are the served embeddings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_client import ClipClient
from clip_export.cli import main
from clip_export.errors import NoTextTower
from clip_export.load import load
from clip_export.text import load_text
from clip_export.tokenizer import TEXTS, ModelTokenizer, tokenizer_of
from clip_serving.errors import ConfigurationError
from clip_serving.repository.spec import SPEC_FILE, TextSpec
from clip_serving.text.load import load_tokenizer
from clip_serving.text.tokenizer import BadText
from testing.hugging_face import CONTEXT_LENGTH, write_model
from tests.golden.conftest import served

KINDS = ("word-piece", "unigram", "byte-pairs")
WORDS = (
    "a",
    "CAT",
    "dog's",
    "snake_case",
    "café",
    "東京",
    "🐶",
    "&lt;",
    "Ã©",
    "[SEP]",
    "</s>",
    "<pad>",
    "\x00",
    "İ",
)


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelTokenizer:
    return tokenizer_of(write_model(tmp_path_factory.mktemp("model"), request.param))


@settings(max_examples=200)
@given(text=st.one_of(st.text(max_size=60), st.lists(st.sampled_from(WORDS), max_size=20).map(" ".join)))
def test_ids_are_open_clips(tokenizer: ModelTokenizer, text: str) -> None:
    assert tokenizer.served(text).ids.tolist() == tokenizer.reference([text])[0].tolist()


def test_a_text_that_does_not_fit_is_cut_off(tokenizer: ModelTokenizer) -> None:
    assert [tokenizer.served(text).is_cut for text in (TEXTS[0], TEXTS[-1])] == [False, True]
    assert len(tokenizer.served(TEXTS[-1]).ids) == CONTEXT_LENGTH


def test_the_separator_becomes_zero(tmp_path: Path) -> None:
    stripped = tokenizer_of(write_model(tmp_path, "word-piece"))
    kept = tokenizer_of(write_model(tmp_path, "word-piece", strip_sep_token=False))
    assert (stripped.zeroed_token, kept.zeroed_token) == (3, None)
    assert 3 not in stripped.served("a cat").ids
    assert 3 in kept.served("a cat").ids


def test_a_text_without_ids_costs_only_itself(tmp_path: Path) -> None:
    ours = tokenizer_of_letters(tmp_path)
    assert ours("a cat").ids.any()
    with pytest.raises(BadText, match="invalid_text: the model's tokenizer cannot encode the text"):
        ours("東京")


def tokenizer_of_letters(folder: Path) -> Any:
    """As served; its vocabulary has no id for unknown letters."""
    found = load_tokenizer_of(write_model(folder, "no-unknown"))
    (folder / "tokenizer.json").write_bytes(found)
    return load_tokenizer(folder, CONTEXT_LENGTH, "whitespace")


def load_tokenizer_of(name: str) -> bytes:
    import open_clip

    found = open_clip.get_tokenizer(name)
    found(["a cat"])  # sets the lengths
    return str(found.tokenizer.backend_tokenizer.to_str()).encode()


def test_a_tokenizer_that_fails_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoTextTower, match=r"tokenizer of local-dir:\S+ fails: .*unknown token"):
        tokenizer_of(write_model(tmp_path, "no-unknown"))


def test_other_ids_are_refused(tmp_path: Path) -> None:
    """transformers does not write this option into tokenizer.json."""
    name = write_model(tmp_path, "byte-pairs")
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "split_special_tokens": True}))
    with pytest.raises(NoTextTower, match="differ from those that would be served"):
        tokenizer_of(name)


@pytest.mark.parametrize("mode", ["clips"])
def test_a_tokenizer_mode_is_refused(tmp_path: Path, mode: str) -> None:
    name = write_model(tmp_path, "word-piece")
    path = tmp_path / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["text_cfg"]["tokenizer_mode"] = mode
    path.write_text(json.dumps(config))
    with pytest.raises(NoTextTower, match="mode 'clips'"):
        tokenizer_of(name)


def test_an_unreachable_tokenizer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    wanted = r"tokenizer.json and tokenizer_config.json of timm/ViT-B-16-SigLIP must .*local-dir:FOLDER"
    with pytest.raises(NoTextTower, match=wanted):
        tokenizer_of("ViT-B-16-SigLIP-256")


def test_without_its_tokenizer_the_image_tower_is_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model").mkdir()
    name = write_model(tmp_path / "model", "unigram")
    (tmp_path / "model" / "tokenizer.json").unlink()
    model = ["--model", name, "--pretrained", "none", "--repository", str(tmp_path / "out")]
    assert main([*model, "--formats", "torchscript"]) == 0
    said = capsys.readouterr().err
    assert (
        "has no tokenizer.json. Copy tokenizer.json and tokenizer_config.json of clip-triton/unigram" in said
    )
    assert not (tmp_path / "out" / "clip_text").exists()
    assert main([*model, "--towers", "image,text"]) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [({"truncation": None}, r"\(None, 16\) tokens instead of 16"), ("{", "cannot read the tokenizer")],
)
def test_a_damaged_tokenizer_is_named(
    tokenizer: ModelTokenizer, tmp_path: Path, change: Any, message: str
) -> None:
    (content,) = tokenizer.files.values()
    text = change if isinstance(change, str) else json.dumps({**json.loads(content), **change})
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        load_tokenizer(tmp_path, CONTEXT_LENGTH, tokenizer.clean)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["word-piece", "unigram"])
def test_served_embeddings_are_open_clips(tmp_path: Path, kind: str) -> None:
    (tmp_path / "model").mkdir()
    name = write_model(tmp_path / "model", kind)
    model = ["--model", name, "--pretrained", "none", "--repository", str(tmp_path / "out")]
    assert main([*model, "--formats", "onnx-fp32"]) == 0
    spec = TextSpec.load(tmp_path / "out" / "clip_text_encoder" / "1" / SPEC_FILE)
    assert (spec.context_length, spec.logit_bias) == (CONTEXT_LENGTH, -10)
    wanted = load_text(load(name, "none")).encode([*TEXTS])
    with served(tmp_path / "out", "exact") as url, ClipClient(url) as client:
        rows = client.embed_text(TEXTS)
        other = client.embed_text(["a red car at night"])
        (cut,) = client.embed_text_results([TEXTS[-1]])
    assert (rows * wanted).sum(axis=1).min() >= 0.9999
    assert [notice.code for notice in cut.notices] == ["cut_off"]
    assert np.abs(other @ wanted[0]).max() < 0.9999
