"""The demo's parts: pictures, neighbors, the page, and the programs it runs. `make demo` is the whole."""

from __future__ import annotations

import base64
import io
import os
import re
import signal
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from clip_client import EmbeddedObject, Existing, ObjectInfo, PhotoResult
from clip_client.errors import ItemError
from clip_client.sinks.parquet import ParquetSink
from testing.scenes import SCENES, SHOTS, Scene, take
from testing.waiting import PATIENCE_S, wait_until
from tools.demo.neighbors import Neighbors, Vectors, nearest, read_embeddings, same_scene
from tools.demo.page import write_page
from tools.demo.steps import DemoError, Steps, run_program

ROOT = Path(__file__).resolve().parents[3]


def unit_rows(*rows: list[float]) -> Vectors:
    matrix: Vectors = np.array(rows, np.float32)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    return matrix


def fail() -> None:
    raise OSError("No such thing")


# --- pictures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_every_scene_has_its_files_and_a_credit(scene: Scene) -> None:
    assert scene.credit
    for shot in SHOTS:
        photo = Image.open(io.BytesIO(take(scene, shot, seed=1, megapixels=0.02)))
        assert photo.format == "JPEG"


def test_photo_is_as_a_camera_makes_it() -> None:
    cat = next(scene for scene in SCENES if scene.name == "cat")
    turned = next(shot for shot in SHOTS if shot.sideways)
    data = take(cat, turned, seed=5)
    photo = Image.open(io.BytesIO(data))
    assert 6.5e6 < photo.width * photo.height < 7.5e6
    assert photo.height > photo.width
    exif = photo.getexif()
    assert exif[ExifTags.Base.Orientation] == 6
    assert exif[ExifTags.Base.Make] == "clip-triton"
    assert 1e6 < len(data) < 5e6


def test_pictures_are_always_the_same() -> None:
    assert take(SCENES[0], SHOTS[0], 1, 0.05) == take(SCENES[0], SHOTS[0], 1, 0.05)
    assert take(SCENES[0], SHOTS[0], 1, 0.05) != take(SCENES[0], SHOTS[0], 2, 0.05)


# --- neighbors ----------------------------------------------------------------------------------


def test_nearest_are_by_cosine_and_never_the_photo_itself() -> None:
    rows = nearest(["a", "b", "c"], unit_rows([1, 0], [0.9, 0.1], [0, 1]), count=2)
    assert [name for name, _ in rows[0].nearest] == ["b", "c"]
    assert rows[0].nearest[0][1] == pytest.approx(0.9939, abs=1e-4)
    assert [name for name, _ in rows[2].nearest] == ["b", "a"]


@pytest.mark.parametrize("count", [0, 1])
def test_nearest_of_few_photos_are_none(count: int) -> None:
    rows = nearest(["only"][:count], np.ones((count, 4), np.float32))
    assert [row.nearest for row in rows] == [[]] * count


def test_nearest_in_blocks_are_those_of_the_whole() -> None:
    vectors = np.random.default_rng(0).normal(size=(2500, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = nearest([str(number) for number in range(2500)], vectors, count=1)
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -np.inf)
    assert [int(row.nearest[0][0]) for row in rows] == list(cosines.argmax(axis=1))


def test_same_scene_is_the_folder() -> None:
    rows = [Neighbors("cat/1", [("cat/2", 0.9)]), Neighbors("cat/2", [("dog/1", 0.9)])]
    assert same_scene(rows) == 1


def test_embeddings_are_read_without_the_failures(tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    sink = ParquetSink(path)
    sink.open("gs://album", {}, 2, Existing())
    for name, outcome in (
        ("a", unit_rows([1, 0])[0]),
        ("bad", ItemError("truncated", "the end is missing")),
        ("b", unit_rows([0, 1])[0]),
    ):
        sink.write(EmbeddedObject(ObjectInfo(name, 10, 1, "AAAAAA=="), PhotoResult.of(outcome)))
    sink.finish()
    found = read_embeddings(path)
    assert found.names == ["a", "b"]
    np.testing.assert_array_equal(found.vectors, unit_rows([1, 0], [0, 1]))
    assert found.failures == [("bad", "truncated: the end is missing")]


# --- the page ------------------------------------------------------------------------------------


class _Page(HTMLParser):
    """Collects ids, links, and whatever would be fetched."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.add(tag)
        self.ids.add(values.get("id") or "")
        if tag == "a":
            self.links.add((values.get("href") or "").removeprefix("#"))


def page(folder: Path, rows: list[Neighbors], **options: str) -> str:
    path = folder / "similar.html"
    write_page(path, rows, folder, facts=[("model", "M <1>")], failures=[("x<y", "bad & gone")], **options)
    return path.read_text(encoding="utf-8")


def test_page_holds_its_pictures_and_fetches_nothing(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.jpg")
    (tmp_path / "no picture.txt").write_text("text")
    text = page(
        tmp_path,
        [Neighbors("a.jpg", [("no picture.txt", 0.5)]), Neighbors("no picture.txt", [("a.jpg", 0.5)])],
    )
    parsed = _Page(text)
    assert parsed.links <= parsed.ids
    assert not parsed.tags & {"script", "link", "img", "iframe"}
    addresses = re.findall(r"url\(([^)]{0,30})", text)
    assert len(addresses) == 1
    assert addresses[0].startswith("data:image/jpeg;base64,")
    assert "http" not in text


def test_page_shows_names_as_text(tmp_path: Path) -> None:
    name = '<script>alert(1)</script>" onclick="x\'\x1b[2J\x00\u202e\udcff.jpg'
    text = page(tmp_path, [Neighbors(name, [(name, 0.5)])], warning="random <weights>")
    assert "<script" not in text
    for shown in ("x&lt;y", "bad &amp; gone", "M &lt;1&gt;", "random &lt;weights&gt;"):
        assert shown in text
    assert 'aria-label="&lt;script&gt;alert(1)&lt;/script&gt;&#34; onclick=&#34;x&#39;\\x1b[2J' in text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)
    assert _Page(text).tags == _Page(page(tmp_path, [Neighbors("a", [("a", 0.5)])], warning="b")).tags


def test_names_do_not_reach_the_terminal_as_commands(capsys: pytest.CaptureFixture[str]) -> None:
    Steps(1).line("a\x1b[2J\u202eb")
    assert capsys.readouterr().out == "      a\\x1b[2J\\u202eb\n"


def test_thumbnail_stands_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    picture = Image.new("RGB", (60, 60), "white")
    picture.paste("black", (0, 0, 30, 60))  # the left half: turned by 90 degrees, the upper one
    picture.save(tmp_path / "a.jpg", exif=exif)
    (encoded,) = re.findall(r"base64,([^)]+)\)", page(tmp_path, [Neighbors("a.jpg", [])]))
    shown = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("L")
    pixels = np.asarray(shown)
    half = len(pixels) // 2
    upper, lower = pixels[: half - 10].mean(), pixels[half + 10 :].mean()
    assert upper < 50 < 200 < lower


# --- programs and steps --------------------------------------------------------------------------


def test_program_gives_its_output_and_takes_variables() -> None:
    assert run_program(["/bin/sh", "-c", "echo $ANSWER"], environment={"ANSWER": "42"}) == "42\n"


def test_program_that_fails_or_is_missing_is_an_error() -> None:
    assert run_program(["/bin/sh", "-c", "exit 1"], allowed=(0, 1)) == ""
    with pytest.raises(DemoError, match="sh ended with exit status 3"):
        run_program(["/bin/sh", "-c", "exit 3"])
    with pytest.raises(DemoError, match="/nowhere/clip-embed is missing"):
        run_program(["/nowhere/clip-embed"])


def test_failed_step_names_its_number_and_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    steps = Steps(2)
    with steps.step("first", "no hint"):
        pass
    with (
        pytest.raises(DemoError, match=r"(?s)step 2, second: No such thing.*Try it by hand\."),
        steps.step("second", "Try it by hand."),
    ):
        fail()
    assert "[2/2] second" in capsys.readouterr().out


def test_ctrl_c_ends_the_program_that_runs(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    code = (
        "from tools.demo.steps import run_program\n"
        f"run_program(['/bin/sh', '-c', 'echo $$ > {note}.part; mv {note}.part {note}; exec sleep 600'])"
    )
    demo = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL)
    wait_until(note.exists, "the start of the program")
    demo.send_signal(signal.SIGINT)
    assert demo.wait(PATIENCE_S) != 0
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)
