"""The text tower on a real server: embeddings, a row's own error, the check, and the command."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from skimage import data

from clip_client import (
    AsyncClipClient,
    ClipClient,
    ItemError,
    ServerMismatch,
    embed_all,
    open_sink,
    open_source,
)
from clip_client.requests.wire import Embedding
from clip_search import read_dataset
from clip_search.cli import main as search
from clip_serving.errors import ServerError
from clip_serving.server.embedded import TritonServer
from testing.repositories import repository_with_text
from testing.servers import short_lived

TEXTS = ["a photo of a cat", "two people at sunset", "", "naïve café 東京 🐶", "it's a dog"]


@pytest.fixture(scope="module")
def both(small_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    with short_lived(repository_with_text(small_repository, tmp_path_factory.mktemp("both"))) as server:
        yield server


def test_texts_of_any_number_and_order(both: TritonServer) -> None:
    with ClipClient(both.grpc_url) as client:
        rows = client.embed_text(TEXTS)
        assert rows.shape == (len(TEXTS), client.info.dimension)
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(client.embed_text(TEXTS[::-1])[::-1], rows, atol=1e-5)
        many = client.embed_text([TEXTS[number % len(TEXTS)] for number in range(150)])
        np.testing.assert_allclose(many[100], rows[0], atol=1e-5)
        assert client.embed_text([]).shape == (0, client.info.dimension)

    async def embed() -> Embedding:
        async with AsyncClipClient(both.grpc_url) as client:
            return await client.embed_text(TEXTS)

    np.testing.assert_allclose(asyncio.run(embed()), rows, atol=1e-5)


def test_a_bad_text_costs_only_itself(both: TritonServer) -> None:
    with ClipClient(both.grpc_url) as client:
        texts = ["a dog", "x" * 20_000, "\ud800", "word " * 100, "a dog"]
        good, long, broken, cut, again = client.embed_text_results(texts)
        assert long.error is not None
        assert long.error.code == "too_many_bytes"
        assert broken.error is not None
        assert broken.error.code == "invalid_text"
        assert [notice.code for notice in cut.notices] == ["cut_off"]
        assert good.embedding is not None
        assert again.embedding is not None
        np.testing.assert_allclose(again.embedding, good.embedding, atol=1e-5)
        with pytest.raises(ItemError, match="too_many_bytes"):
            client.embed_text(texts)
        with pytest.raises(TypeError, match=r"embed_text\(\[text\]\)"):
            client.embed_text("a dog")


def test_both_towers_are_of_one_model(both: TritonServer) -> None:
    with ClipClient(both.grpc_url) as client:
        assert client.text_info.parameters["weights_sha256"] == client.info.parameters["weights_sha256"]
        assert float(client.text_info.parameters["logit_scale"]) > 1


def test_a_server_that_embeds_texts_wrongly_is_not_ready(small_repository: Path, tmp_path: Path) -> None:
    root = repository_with_text(small_repository, tmp_path, reference_text="another text")
    with pytest.raises(ServerError, match="reference text"), TritonServer(root):
        pass


def test_a_server_without_it_is_named(server: TritonServer) -> None:
    with ClipClient(server.grpc_url) as client, pytest.raises(ServerMismatch, match="--towers image,text"):
        client.embed_text(["a dog"])


def test_the_command_prints_lines_of_json(both: TritonServer) -> None:
    command = [sys.executable, "-m", "clip_client.cli", "--url", both.grpc_url]
    command += ["--text", "a dog", "--text", "x" * 20_000]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    dog, long = map(json.loads, done.stdout.splitlines())
    assert dog["text"] == "a dog"
    assert abs(sum(number**2 for number in dog["embedding"]) - 1) < 1e-4
    assert long["embedding"] is None
    assert "too_many_bytes" in long["error"]


def test_texts_and_labels_are_nearest_to_the_clients_vectors(
    both: TritonServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The towers are random, so this shows that the parts fit, not that the answers mean something."""
    dataset = tmp_path / "embeddings.parquet"
    (tmp_path / "photos").mkdir()
    for name in ("chelsea", "coffee", "rocket"):
        Image.fromarray(getattr(data, name)()).save(tmp_path / "photos" / f"{name}.png")
    words = ["a red car", "two people at sunset", "snow"]
    with ClipClient(both.grpc_url) as client:
        embed_all(client, open_source(str(tmp_path / "photos")), open_sink(str(dataset)))
        vectors = client.embed_text(words)
        scale = float(client.text_info.parameters["logit_scale"])
    photos = read_dataset(dataset)
    assert search(["query", str(dataset), words[1], "--url", both.grpc_url, "-k", "1", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["name"] == photos.row(int(np.argmax(photos.vectors @ vectors[1]))).name

    (tmp_path / "prompts.txt").write_text("\n".join(words))
    out = tmp_path / "labels.parquet"
    given = ["--prompts", str(tmp_path / "prompts.txt")]
    assert search(["label", str(dataset), *given, "--out", str(out), "--url", both.grpc_url]) == 0
    rows = pq.read_table(out)
    logits = scale * (photos.vectors @ vectors.T)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(rows["probability"], (powers / powers.sum(1, keepdims=True)).max(1), rtol=1e-3)
    assert rows["label"].to_pylist() == [words[best] for best in logits.argmax(axis=1)]
