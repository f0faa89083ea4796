"""The code blocks of README and docs run as they stand, but for the server's addresses.

The blocks of one page run in their order in one folder, which holds two photos, `a.jpg` and `b.jpg`.
"""

from __future__ import annotations

import inspect
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from clip_client import ClipClient
from clip_client.timings import table
from clip_serving.cli import announce
from clip_serving.server.embedded import TritonServer
from testing.fake_gcs import FakeGcs
from testing.markdown import ROOT, Block, blocks, pages
from testing.pictures import camera_photos
from testing.waiting import PATIENCE_S

_RUNNING = {page: [block for block in blocks(page) if block.test == "run"] for page in pages()}


_INTERPRETERS = {
    "python": [sys.executable, "-c"],
    "sh": ["bash", "-euo", "pipefail", "-c"],
    "javascript": ["node", "--input-type=module", "--eval"],
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for name, photo in zip(("a.jpg", "b.jpg"), camera_photos(2, seed=12), strict=True):
        (folder / name).write_bytes(photo)
    return folder


@pytest.fixture(scope="module")
def embedded(server: TritonServer, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What clip-embed writes for the photos and a file that is none."""
    source = tmp_path_factory.mktemp("source")
    shutil.copytree(photos, source, dirs_exist_ok=True)
    (source / "notes.txt").write_text("not a photo")
    out = tmp_path_factory.mktemp("embedded") / "embeddings.parquet"
    command = [sys.executable, "-m", "clip_client.cli", str(source), "--out", str(out), "--quiet"]
    done = subprocess.run([*command, "--url", server.grpc_url], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr  # one failed: notes.txt
    return out


@pytest.fixture(scope="module")
def bucket(fake_gcs: FakeGcs, photos: Path) -> Iterator[None]:
    """gs://my-album/2024/ with the photos."""
    for photo in photos.iterdir():
        fake_gcs.upload("my-album", f"2024/{photo.name}", photo.read_bytes())
    yield
    for photo in photos.iterdir():
        fake_gcs.delete("my-album", f"2024/{photo.name}")


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize(
    "page", [page for page, found in _RUNNING.items() if found], ids=lambda page: str(page.relative_to(ROOT))
)
def test_blocks_run(page: Path, server: TritonServer, photos: Path, embedded: Path, tmp_path: Path) -> None:
    if any("curl " in block.code for block in _RUNNING[page]) and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    shutil.copytree(photos, tmp_path, dirs_exist_ok=True)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    with ClipClient(server.grpc_url) as client:
        dimension = client.info.dimension
    for block in _RUNNING[page]:
        if shutil.which(_INTERPRETERS[block.language][0]) is None:
            continue  # Node.js, which nothing else needs
        if block.needs and not (tmp_path / block.needs).exists():
            shutil.copy(embedded.parent / block.needs, tmp_path / block.needs)
        printed = _run(block, _here(block.code, server, dimension), tmp_path)
        for expected in block.prints:
            assert _here(expected, server, dimension) in printed, block.where


def _here(text: str, server: TritonServer, dimension: int) -> str:
    """The text with the addresses of the test's server and the dimension of its model."""
    for documented, actual in (
        ("127.0.0.1:8000", server.http_url.removeprefix("http://")),
        ("127.0.0.1:8001", server.grpc_url),
        ("127.0.0.1:8002", re.sub(r"^http://|/metrics$", "", server.metrics_url)),
        ("2048", str(4 * dimension)),
        ("512", str(dimension)),
    ):
        text = text.replace(documented, actual)
    return text


def _run(block: Block, code: str, folder: Path) -> str:
    """What the block printed, messages for people included."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [*_INTERPRETERS[block.language], code],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, f"{block.where}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_line_of_clip_serve_embeds_a_photo(
    server: TritonServer,
    small_repository: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copy(photos / "a.jpg", tmp_path / "photo.jpg")
    announce(server, small_repository, as_json=False)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  curl ")]
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=True)
    values = np.array(done.stdout.split(), np.float32)
    with ClipClient(server.grpc_url) as client:
        np.testing.assert_allclose(values, client.embed([tmp_path / "photo.jpg"])[0], atol=1e-5)


def test_the_example_in_a_docstring_runs(
    server: TritonServer, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = (inspect.getdoc(ClipClient.timed) or "").partition("\n\n")[2]
    with ClipClient(server.grpc_url) as client:
        exec(example, {"client": client, "photos": list(photos.iterdir()), "table": table})
    assert "preprocess" in capsys.readouterr().out
