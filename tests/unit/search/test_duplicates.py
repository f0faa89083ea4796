"""Duplicates: exact, near and verified, and the one to keep."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from clip_client.requests.wire import Embedding
from clip_client.sources.base import crc32c
from clip_search import defaults, read_dataset
from clip_search.cli import main
from clip_search.duplicates import find_duplicates
from clip_search.near import near_pairs
from tests.unit.search.datasets import clusters, units, write


def pairs_of(vectors: Embedding, threshold: float) -> set[tuple[int, int]]:
    found = [(int(a), int(b)) for a, b in near_pairs(vectors, threshold)]
    assert len(found) == len(set(found))
    return set(found)


def test_near_pairs_equal_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defaults, "TILE_ROWS", 7)
    vectors = clusters(60, 8)
    products = vectors @ vectors.T
    expected = {(a, b) for a in range(60) for b in range(a + 1, 60) if products[a, b] >= 0.9}
    assert expected
    assert pairs_of(vectors, 0.9) == expected


def test_cells_find_the_pairs_that_all_comparisons_find(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies of rows, moved away up to a cosine of about 0.95."""
    originals = clusters(4000, 32)
    random = np.random.default_rng(1)
    moved = originals[:1000] + 0.05 * random.random((1000, 1)) * random.standard_normal((1000, 32))
    vectors = np.concatenate([originals, units(moved)])
    expected = pairs_of(vectors, 0.95)
    assert len(expected) > 900
    monkeypatch.setattr(defaults, "ALL_PAIRS_ROWS", 1000)
    found = pairs_of(vectors, 0.95)
    assert found <= expected
    assert len(found) >= 0.99 * len(expected)


def test_many_equal_photos_are_one_group_of_bounded_pairs(tmp_path: Path) -> None:
    rows = 1500
    vectors = np.repeat(units([[1, 0, 0]]), rows, axis=0)
    assert len(near_pairs(vectors, 0.95)) <= rows * defaults.MAX_NEAR
    path = write(tmp_path / "e.parquet", [str(number) for number in range(rows)], vectors)
    (group,) = find_duplicates(read_dataset(path), 0.95, None).groups
    assert len(group) == rows


def test_photos_that_are_as_good_as_equal_do_not_share_a_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as scans of white pages: their number would be squared."""
    monkeypatch.setattr(defaults, "ALL_PAIRS_ROWS", 1000)
    rows = 5000
    noise = np.random.default_rng(0).standard_normal((rows, 8), np.float32)
    vectors = units(np.eye(8, dtype=np.float32)[0] + 1e-7 * noise)
    products: list[int] = []
    pairs = near_pairs(vectors, 0.95, on_progress=lambda _, total: products.append(total))
    assert products[0] < rows**2 / 5
    assert len(pairs) <= rows * defaults.MAX_NEAR * defaults.CELLS
    path = write(tmp_path / "e.parquet", [str(number) for number in range(rows)], vectors)
    (group,) = find_duplicates(read_dataset(path), 0.95, None).groups
    assert len(group) == rows


def picture(seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    smooth = cv2.resize(small, (640, 480), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    grain = np.random.default_rng(seed + 100).integers(-20, 21, smooth.shape)
    return np.clip(smooth + grain, 0, 255).astype(np.uint8)


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """One photo as original, byte copy, small, blurred and recompressed; and another one."""
    folder = tmp_path / "photos"
    folder.mkdir()
    original = picture(0)
    cv2.imwrite(str(folder / "original.png"), original)
    (folder / "copy.png").write_bytes((folder / "original.png").read_bytes())
    cv2.imwrite(str(folder / "small.jpg"), cv2.resize(original, (320, 240), interpolation=cv2.INTER_AREA))
    cv2.imwrite(str(folder / "blurred.png"), cv2.GaussianBlur(original, (0, 0), 8))
    cv2.imwrite(str(folder / "recompressed.jpg"), original, [cv2.IMWRITE_JPEG_QUALITY, 90])
    cv2.imwrite(str(folder / "other.png"), picture(1))
    (folder / "broken.png").write_text("no picture")
    return folder


@pytest.fixture
def dataset(album: Path, tmp_path: Path) -> Path:
    """All embeddings are as close as near duplicates, but for a far one."""
    names = sorted(path.name for path in album.iterdir())
    near = [[1, 0.01 * row, 0, 0] for row in range(len(names))]
    contents = [(album / name).read_bytes() for name in names]
    return write(
        tmp_path / "e.parquet",
        [*names, "far.png"],
        units([*near, [0, 0, 1, 0]]),
        source=[str(album)] * (len(names) + 1),
        size=[*map(len, contents), None],
        crc32c=[*map(crc32c, contents), None],
    )


def test_verified_groups(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "review.html"
    before = sorted(path.name for path in (tmp_path / "photos").iterdir())
    assert main(["duplicates", str(dataset), "--json", "--html", str(page)]) == 0
    found = json.loads(capsys.readouterr().out)
    (group,) = found["groups"]
    # The byte copies are the best: as large as the blurred and the recompressed one, and sharper.
    assert [copy["name"] for copy in group[:2]] == ["copy.png", "original.png"]
    assert [(copy["keep"], copy["kind"]) for copy in group[:2]] == [(True, "exact"), (False, "exact")]
    assert {copy["name"] for copy in group[2:]} == {"small.jpg", "blurred.png", "recompressed.jpg"}
    assert group[-1]["name"] == "small.jpg"
    assert group[-1]["pixels"] == 320 * 240
    assert found["rejected"] >= 4  # other.png with each of the others
    assert [each["name"] for each in found["unreadable"]] == ["broken.png"]
    text = page.read_text(encoding="utf-8")
    assert text.count("<img") == 5
    assert text.count('class="card keep"') == 1
    assert sorted(path.name for path in (tmp_path / "photos").iterdir()) == before


def test_without_verification(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["duplicates", str(dataset), "--no-verify", "--threshold", "0.99", "--json"]) == 0
    (group,) = json.loads(capsys.readouterr().out)["groups"]
    assert len(group) == 7
    assert "far.png" not in {copy["name"] for copy in group}


def test_exposure(dataset: Path, album: Path, capsys: pytest.CaptureFixture[str]) -> None:
    white = np.full((480, 640, 3), 255, np.uint8)
    white[:120] = 51
    for name in ("copy.png", "original.png"):
        cv2.imwrite(str(album / name), white)
    assert main(["duplicates", str(dataset), "--exposure"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0][4:7] == ["sharpness", "brightness", "clipped"]
    assert {tuple(line[5:8]) for line in lines if line[-2] == "copy.png"} == {("0.80", "0.750", "copy.png")}


def test_table_of_hostile_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["<script>\x1b[2J", "\u202ename\r\n"]
    path = write(tmp_path / "e.parquet", names, units([[1, 0], [0, 1]]), size=[1, 1], crc32c=["AAAAAA=="] * 2)
    page = tmp_path / "review.html"
    command = ["duplicates", str(path), "--photos", str(tmp_path), "--no-verify", "--html", str(page)]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 3
    for text in (out, page.read_text(encoding="utf-8")):
        assert not set(text) & set("\x1b\r\u202e")
    assert "<script" not in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("value", ["0", "1.1", "nan", "x"])
def test_wrong_thresholds(value: str, dataset: Path) -> None:
    with pytest.raises(SystemExit):
        main(["duplicates", str(dataset), "--threshold", value])
