"""A second model under a name beside the first one, on one real server.

Both are the small tower; what the second embeds differs by its own settings: it ignores the EXIF orientation.
tests/golden/test_names.py exports another model.
"""

from __future__ import annotations

import dataclasses
import io
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from clip_batch.cli import main as batch
from clip_client import ClipClient, ServerMismatch, check
from clip_client.cli import main as embed
from clip_search.cli import main as search
from clip_serving.cli import announce
from clip_serving.repository.deployment import Deployment
from clip_serving.repository.families import families
from clip_serving.repository.render import write_repository
from clip_serving.repository.spec import SPEC_FILE
from clip_serving.repository.stage import InstanceLayout
from clip_serving.server.embedded import ServerOptions, TritonServer
from testing.repositories import repository_with_text
from testing.servers import short_lived

LARGE = "clip_image_large"
_OTHER_WEIGHTS = "1" * 64


@pytest.fixture(scope="module")
def repository(small_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = repository_with_text(small_repository, tmp_path_factory.mktemp("both"))
    deployment, specs = Deployment.load(root), {}
    for unnamed, named in zip(families(""), families("large"), strict=True):
        for old, new in zip(unnamed.models[1:], named.models[1:], strict=True):
            (root / new / "1").mkdir(parents=True)
            for path in (root / old / "1").iterdir():
                if path.name != SPEC_FILE:
                    (root / new / "1" / path.name).symlink_to(path.resolve())
        spec = unnamed.spec.load(root / unnamed.encoder / "1" / SPEC_FILE)
        specs[named.name] = spec = dataclasses.replace(spec, model="Large", weights_sha256=_OTHER_WEIGHTS)
        (root / named.encoder / "1" / SPEC_FILE).write_text(spec.to_json())
        own = {"apply_exif_orientation": False} if named.name == "image_large" else {}
        deployment = deployment.replaced(named, **own)
    write_repository(root, deployment, specs)
    return root


@pytest.fixture(scope="module")
def both(repository: Path) -> Iterator[TritonServer]:
    options = ServerOptions(layout=InstanceLayout(1, 1, 1, 1), encoder_precision="fp32")
    with short_lived(repository, options) as server:
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    (folder / "turned.jpg").write_bytes(photo(orientation=6))
    return folder


def photo(orientation: int) -> bytes:
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(data.chelsea()).save(file, "JPEG", exif=exif)  # type: ignore[no-untyped-call]
    return file.getvalue()


def test_each_model_has_its_own_settings_and_identity(both: TritonServer) -> None:
    photos = [photo(orientation=1), photo(orientation=6)]
    with ClipClient(both.grpc_url) as first, ClipClient(both.grpc_url, model=LARGE) as large:
        stored, turned = first.embed(photos)
        assert not np.allclose(stored, turned, atol=1e-3)
        np.testing.assert_allclose(large.embed(photos), [stored, stored], atol=1e-5)
        infos = [first.info, large.info]
        assert [info.name for info in infos] == ["clip_image", LARGE]
        assert infos[1].steps == ("clip_image_large_preprocess", "clip_image_large_encoder")
        assert (
            infos[0].parameters["weights_sha256"] != infos[1].parameters["weights_sha256"] == _OTHER_WEIGHTS
        )
        assert [first.text_info.name, large.text_info.name] == ["clip_text", "clip_text_large"]
        np.testing.assert_allclose(large.embed_text(["a cat"]), first.embed_text(["a cat"]), atol=1e-5)
    with ClipClient(both.grpc_url, model=LARGE, decode="client") as client:
        np.testing.assert_allclose(client.embed(photos), [stored, stored], atol=1e-5)
    with (
        ClipClient(both.grpc_url, model="clip_image_small") as client,
        pytest.raises(ServerMismatch, match="does not serve clip_image_small"),
    ):
        client.info  # noqa: B018 - raises


def test_both_are_checked_and_described(
    both: TritonServer, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert both.checked
    assert both.encoder is not None
    assert sorted(text.startswith(f"{LARGE}: fp32") for text in both.encoder.split("; ")) == [False, True]
    for model in ("clip_image", LARGE):
        assert check(both.grpc_url, model=model).ok
    announce(both, repository, as_json=False)
    said = capsys.readouterr().out
    assert "/v2/models/clip_image/infer" in said
    assert f"also served (--model NAME): {LARGE}\n" in said
    assert embed(["--check", both.grpc_url, "--model", LARGE]) == 0


def test_photos_of_one_do_not_wait_for_the_encoder_of_the_other(both: TritonServer) -> None:
    backlogs = {path.name.rpartition("-")[2] for path in Path("/dev/shm").glob(f"*backlog-{both.pid}-*")}
    assert backlogs == {"clip_image", LARGE}


def test_metrics_tell_them_apart(both: TritonServer) -> None:
    with ClipClient(both.grpc_url, model=LARGE) as client:
        client.embed([photo(orientation=1)])
    with urllib.request.urlopen(both.metrics_url, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    photos = [line for line in lines if line.startswith("clip_photos_total{") and 'format="JPEG"' in line]
    assert sum(f'model="{LARGE}"' in line for line in photos) == 1
    assert any('nv_inference_count{model="clip_image_large_encoder"' in line for line in lines)


def test_the_output_of_one_is_refused_with_the_other(
    both: TritonServer, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "large.parquet"
    server = ["--url", both.grpc_url]
    assert embed([str(folder), "--out", str(out), *server, "--model", LARGE]) == 0
    assert embed([str(folder), "--out", str(out), *server, "--resume"]) == 2
    assert "another model's embeddings (Large" in capsys.readouterr().err

    assert search(["query", str(out), "a cat", *server, "--model", LARGE, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == "turned.jpg"
    assert search(["query", str(out), "a cat", *server]) == 2
    assert f"(--model {LARGE}, if it serves several)" in capsys.readouterr().err

    assert embed(["--text", "a cat", *server, "--model", LARGE]) == 0
    assert json.loads(capsys.readouterr().out)["error"] is None


def test_a_job_moves_to_the_new_model(
    both: TritonServer, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, server = str(tmp_path / "job"), ["--url", both.grpc_url]
    large = [*server, "--model", LARGE]
    plan = ["plan", str(folder), "--out", out]
    assert batch([*plan, *server]) == 0
    assert batch(["run", out, *server]) == 0
    assert batch(["stale", out, *large]) == 1
    assert f"--url {both.grpc_url} --model {LARGE} --replace-model" in capsys.readouterr().err
    assert batch([*plan, *large]) == 2
    assert "holds another model's embeddings" in capsys.readouterr().err
    assert batch([*plan, *large, "--replace-model"]) == 0
    assert batch(["run", out, *large]) == 0
    assert batch(["compact", out]) == 0
    assert batch(["stale", out, *large]) == 0
