"""clip-search on what clip-embed wrote, with a real server."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from clip_client import ClipClient, embed_all, open_sink, open_source
from clip_search import read_dataset
from clip_search.cli import main
from clip_serving.server.embedded import TritonServer


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five photos of noise, one of them twice, and a file that is none."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for number in range(5):
        small = random.integers(0, 256, (7, 9, 3), np.uint8)
        big = cv2.resize(small, (640, 480), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{number}.jpg"), big)
    (folder / "copy of 0.jpg").write_bytes((folder / "0.jpg").read_bytes())
    (folder / "notes.jpg").write_text("not a photo")
    return folder


@pytest.fixture(scope="module")
def dataset(photos: Path, server: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("search") / "embeddings.parquet"
    with ClipClient(server.grpc_url) as client:
        summary = embed_all(client, open_source(str(photos)), open_sink(str(out)))
    assert (summary.embedded, summary.failed) == (6, {"unsupported_format": 1})
    return out


def test_a_photo_finds_itself(
    photos: Path, dataset: Path, server: TritonServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "sheet.html"
    command = ["query", str(dataset), "--like", str(photos / "3.jpg"), "--url", server.grpc_url]
    assert main([*command, "--json", "--html", str(sheet)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found) == 6
    assert found[0] == {"source": str(photos), "name": "3.jpg", "score": pytest.approx(1, abs=1e-4)}
    assert sheet.read_text(encoding="utf-8").count("<img") == 7  # the query's photo, too


def test_equal_files_are_duplicates(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["duplicates", str(dataset), "--json"]) == 0
    (group,) = json.loads(capsys.readouterr().out)["groups"]
    assert [(copy["name"], copy["kind"]) for copy in group] == [
        ("0.jpg", "exact"),
        ("copy of 0.jpg", "exact"),
    ]


def test_a_server_of_another_model_is_refused(
    dataset: Path, photos: Path, server: TritonServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = read_dataset(dataset)
    table = pq.read_table(dataset)
    model = {**data.model, "weights_sha256": "0" * 64}
    other = tmp_path / "other.parquet"
    pq.write_table(table.replace_schema_metadata({"clip_triton": json.dumps(model)}), other)
    assert main(["query", str(other), "--like", str(photos / "3.jpg"), "--url", server.grpc_url]) == 2
    assert "the server has another model" in capsys.readouterr().err
