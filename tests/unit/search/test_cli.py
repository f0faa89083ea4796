"""clip-search query without a server: by row, as table, JSON and contact sheet."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from clip_search import defaults
from clip_search.cli import main
from testing.waiting import PATIENCE_S
from tests.unit.search.datasets import clusters, units, write

_HOSTILE = [
    '<script>alert("1")</script>.jpg',
    "\"onerror='alert(1)'.jpg",
    "{{ 7 * 7 }}.jpg",
    "\x1b[31mred\x1b]0;title\x07\r\n.jpg",
    "gpj.\u202eexe",
    "zero\u200bwidth.jpg",
]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    vectors = units([[1, 0, 0, 0], [1, 0.1, 0, 0], [1, 0.5, 0, 0], [0, 0, 1, 0]])
    return write(tmp_path / "e.parquet", ["a.jpg", "b.jpg", "c.jpg", "d.jpg"], vectors)


def test_like_row_as_json(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["query", str(dataset), "--like-row", "a.jpg", "-k", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {"source": "gs://album", "name": "b.jpg", "score": pytest.approx(0.995037, abs=1e-5)},
        {"source": "gs://album", "name": "c.jpg", "score": pytest.approx(0.894427, abs=1e-5)},
    ]


def test_like_row_as_table(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["query", str(dataset), "--like-row", "a.jpg"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:2]] == [
        ["score", "name", "source"],
        ["0.9950", "b.jpg", "gs://album"],
    ]
    assert len(lines) == 4


def test_a_name_in_two_sources(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(
        tmp_path / "e.parquet", ["a", "a", "b"], clusters(3, 4), source=["gs://x", "gs://y", "gs://y"]
    )
    assert main(["query", str(path), "--like-row", "a"]) == 2
    assert "Choose one with --source: gs://x, gs://y" in capsys.readouterr().err
    assert main(["query", str(path), "--like-row", "a", "--source", "gs://y", "--json"]) == 0
    assert {row["source"] for row in json.loads(capsys.readouterr().out)} == {"gs://x", "gs://y"}
    assert main(["query", str(path), "--like-row", "b", "--source", "gs://x"]) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        [" "],
        ["text", "--like-row", "a.jpg"],
        ["--like-row", "missing.jpg"],
        ["--like", "missing.jpg"],
        ["--like", "/dev/zero"],
        ["--like-row", "a.jpg", "--html", "/missing/sheet.html"],
        ["--like-row", "a.jpg", "--html", "sheet.html", "--photos", "/missing"],
    ],
)
def test_wrong_queries(arguments: list[str], dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["query", str(dataset), *arguments]) == 2
    assert capsys.readouterr().err.startswith("clip-search: error: ")


def test_output_that_is_closed_early(tmp_path: Path) -> None:
    """As by `| head`."""
    path = write(tmp_path / "e.parquet", [str(row) for row in range(5000)], clusters(5000, 4))
    command = [sys.executable, "-m", "clip_search.cli", "query", str(path), "--like-row", "0", "-k", "5000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline().split()[0] == "score"
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(PATIENCE_S) == 141


def test_a_bucket_that_does_not_answer_does_not_hold_up_the_end(tmp_path: Path) -> None:
    path = write(tmp_path / "e.parquet", ["a", "b"], clusters(2, 4))
    command = [sys.executable, "-m", "clip_search.cli", "query", str(path), "--like-row", "a", "--html", "s"]
    with socket.create_server(("127.0.0.1", 0)) as bucket:
        bucket.settimeout(PATIENCE_S)
        emulator = f"http://127.0.0.1:{bucket.getsockname()[1]}"
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "STORAGE_EMULATOR_HOST": emulator},
        )
        with bucket.accept()[0]:
            process.send_signal(signal.SIGINT)
            stopped = time.monotonic()
            assert process.communicate()[1] == "clip-search: stopped\n"
            assert time.monotonic() - stopped < defaults.LOAD_TIMEOUT_S - 5
    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "command",
    [
        ["query", "--like-row", "a.jpg", "--html"],
        ["duplicates", "--no-verify", "--html"],
        ["label", "--labels", "labels.txt", "--out"],
    ],
)
def test_the_dataset_is_not_overwritten(
    command: list[str], dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = dataset.read_bytes()
    assert main([command[0], str(dataset), *command[1:], f"{dataset.parent}/./{dataset.name}"]) == 2
    assert "is the dataset itself" in capsys.readouterr().err
    assert dataset.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["query", "-k", "0"], "whole number of at least 1"),
        (["query", "-k", "x"], "whole number of at least 1"),
        (["duplicates", "--threshold", "x"], "number above 0 and at most 1"),
        (["duplicates", "--threshold", "nan"], "number above 0 and at most 1"),
        (["serve", "--port", "65536"], "number from 0 to 65535"),
        (["serve", "--port", "-1"], "number from 0 to 65535"),
    ],
)
def test_wrong_numbers(arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([arguments[0], "e.parquet", *arguments[1:]])
    assert ended.value.code == 2
    assert reason in capsys.readouterr().err


def test_templates_are_for_labels(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--prompts", "p.txt", "--templates", "t.txt", "--out", str(dataset.parent / "labels.parquet")]
    assert main(["label", str(dataset), *given]) == 2
    assert "--templates is for --labels" in capsys.readouterr().err


def test_hostile_names_are_harmless(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "e.parquet", ["a", *_HOSTILE], clusters(7, 4))
    sheet = tmp_path / "sheet.html"
    assert main(["query", str(path), "--like-row", "a", "--html", str(sheet), "--photos", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == 7
    page = sheet.read_text(encoding="utf-8")
    for text in (printed, page):
        assert not set(text) & set("\x1b\x07\r\u202e\u200b")
    assert "<script" not in page
    assert "&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt;.jpg" in page
    assert 'alt=""onerror' not in page
    assert "{{ 7 * 7 }}.jpg" in page


def test_contact_sheet(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    big = np.full((3000, 2000, 3), (0, 0, 255), np.uint8)
    cv2.imwrite(str(photos / "b.jpg"), big)
    (photos / "c.jpg").write_text("not a photo")
    (tmp_path / "secret.png").write_bytes(cv2.imencode(".png", big[:40, :40])[1].tobytes())
    names = ["a.jpg", "b.jpg", "c.jpg", "missing.jpg", "../secret.png", "nul\0.jpg"]
    path = write(tmp_path / "e.parquet", names, clusters(6, 4), source=[str(photos)] * 6)
    sheet = tmp_path / "sheet.html"
    assert main(["query", str(path), "--like-row", "a.jpg", "--html", str(sheet)]) == 0
    page = sheet.read_text(encoding="utf-8")
    assert page.count("<img") == 1
    assert "OpenCV cannot read this format" in page
    assert "missing.jpg does not exist" in page
    assert "../secret.png is outside" in page
    assert "embedded null byte" in page
    assert len(page) < 20_000  # a thumbnail, not the photo
