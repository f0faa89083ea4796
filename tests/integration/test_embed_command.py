"""`clip-embed` against a real server and a real bucket: every object ends as a row, whatever happens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clip_client import ClipClient, Existing, ObjectInfo, embed_all, open_sink
from clip_client.errors import SinkError
from clip_client.sinks.base import SETTINGS
from clip_client.sinks.parquet import ParquetSink
from clip_client.sources.gcs import GcsSource
from clip_serving.server.embedded import TritonServer
from testing.fake_gcs import FakeGcs
from testing.pictures import camera_photos, corrupt_pictures, encoded
from testing.waiting import PATIENCE_S
from tests.integration.embed_command import clip_embed, rows_of


@pytest.fixture
def bucket(fake_gcs: FakeGcs) -> str:
    """A bucket of ten photos and two broken ones."""
    name = f"album-{uuid.uuid4().hex[:8]}"
    for index, photo in enumerate(camera_photos(10, seed=4)):
        fake_gcs.upload(name, f"2024/{index:02d}.jpg", photo)
    for label, (data, _) in list(corrupt_pictures().items())[:2]:
        fake_gcs.upload(name, f"2024/{label}", data)
    return name


def test_a_bucket_becomes_a_file(server: TritonServer, bucket: str, tmp_path: Path) -> None:
    out = tmp_path / "embeddings.parquet"
    done = clip_embed(f"gs://{bucket}/2024/", "--out", str(out), "--url", server.grpc_url, "--json")
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["photos"] == 12
    assert f"{out}: 10 photos embedded\n" in done.stderr
    assert f"{out.with_name('embeddings.errors.parquet')}: 2 photos failed: " in done.stderr
    rows = rows_of(out)
    assert len(rows) == 12
    failed = [row for row in rows.values() if row["error_code"]]
    assert {row["error_code"] for row in failed} == {
        code for _, code in list(corrupt_pictures().values())[:2]
    }
    for row in failed:
        assert "embedding" not in row
        assert row["error_text"]
    good = [row for row in rows.values() if not row["error_code"]]
    assert all(abs(np.linalg.norm(row["embedding"]) - 1) < 1e-3 for row in good)
    assert all(row["generation"] and row["crc32c"] and row["size"] is not None for row in rows.values())
    metadata = json.loads(pq.read_schema(out).metadata[b"clip_triton"])
    assert metadata["model"] == "ViT-tiny-32"
    assert len(metadata["weights_sha256"]) == 64
    with ClipClient(server.grpc_url) as client:
        told = client.info.parameters
    assert {name: metadata[name] for name in SETTINGS} == {name: told.get(name, "") for name in SETTINGS}
    assert not out.with_name("embeddings.parquet.parts").exists()


def test_timings_add_up(server: TritonServer, bucket: str, tmp_path: Path) -> None:
    done = clip_embed(
        f"gs://{bucket}/",
        "--out",
        str(tmp_path / "out.parquet"),
        "--url",
        server.grpc_url,
        "--timings",
        "--json",
    )
    assert done.returncode == 1, done.stderr
    stages = json.loads(done.stdout)["stages"]
    assert list(stages) == ["load", "transport", "queue", "decode", "preprocess", "embed"]
    for name in ("load", "decode", "preprocess"):
        assert 0 <= stages[name]["min_s"] <= stages[name]["mean_s"] <= stages[name]["max_s"]
    assert stages["load"]["mean_s"] > 0
    assert stages["embed"]["mean_s"] > 0
    assert all(name in done.stderr for name in stages), "the table for people"


def test_a_folder_becomes_a_file(server: TritonServer, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    (photos / "deep").mkdir(parents=True)
    for index, photo in enumerate(camera_photos(3, seed=5)):
        (photos / "deep" / f"{index}.jpg").write_bytes(photo)
    (photos / ".hidden").write_bytes(b"not to be read")
    (photos / "blank.png").write_bytes(encoded(Image.new("L", (40, 30)), "PNG"))
    out = tmp_path / "out.parquet"
    done = clip_embed(str(photos), "--out", str(out), "--url", server.grpc_url, "--json")
    assert done.returncode == 0, done.stderr
    rows = rows_of(out)
    assert sorted(rows) == ["blank.png", "deep/0.jpg", "deep/1.jpg", "deep/2.jpg"]
    assert json.loads(done.stdout)["notices"] == {"single_color": 1}
    assert "notices: 1 single_color\n" in done.stderr
    blank, large = rows["blank.png"], rows["deep/2.jpg"]
    names = ("format", "width", "height", "decode_scale", "notices", "notice_text")
    text = "all pixels are #000000 after preprocessing"
    assert [blank[name] for name in names] == ["PNG", 40, 30, 1, ["single_color"], text]
    assert [large[name] for name in names] == ["JPEG", 2048, 1536, 2, [], None]


def test_the_output_in_the_source_folder_is_not_a_photo(server: TritonServer, tmp_path: Path) -> None:
    for index, photo in enumerate(camera_photos(2, seed=5)):
        (tmp_path / f"{index}.jpg").write_bytes(photo)
    arguments = (".", "--out", "e.parquet", "--url", server.grpc_url, "--json")
    assert clip_embed(*arguments, cwd=tmp_path).returncode == 0
    again = clip_embed(*arguments, "--resume", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    summary = json.loads(again.stdout)
    assert (summary["photos"], summary["skipped"], summary["embedded"]) == (0, 2, 2)
    assert sorted(rows_of(tmp_path / "e.parquet")) == ["0.jpg", "1.jpg"]


def test_a_name_that_is_not_utf_8_is_a_row_like_any_other(server: TritonServer, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    good, other = camera_photos(2, seed=5)
    (photos / os.fsdecode(b"caf\xe9.jpg")).write_bytes(good)
    (photos / os.fsdecode(b"\xff.jpg")).write_bytes(b"no photo")
    (photos / "plain.jpg").write_bytes(other)
    out = tmp_path / "out.parquet"
    arguments = (str(photos), "--out", str(out), "--url", server.grpc_url, "--json")
    done = clip_embed(*arguments)
    assert done.returncode == 1, done.stderr
    rows = rows_of(out)
    codes = {r"caf\xe9.jpg": None, "plain.jpg": None, r"\xff.jpg": "unsupported_format"}
    assert {name: row["error_code"] for name, row in rows.items()} == codes
    again = clip_embed(*arguments, "--resume")
    assert json.loads(again.stdout)["skipped"] == 3
    assert sorted(rows_of(out)) == sorted(codes)


def test_resume_embeds_only_what_is_missing(
    server: TritonServer, fake_gcs: FakeGcs, bucket: str, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    arguments = (f"gs://{bucket}/", "--out", str(out), "--url", server.grpc_url, "--json")
    assert clip_embed(*arguments).returncode == 1
    refused = clip_embed(*arguments)
    assert refused.returncode == 2
    assert "--resume" in refused.stderr
    fake_gcs.upload(bucket, "2024/new.jpg", camera_photos(1, seed=6)[0])
    done = clip_embed(*arguments, "--resume")
    assert done.returncode == 1, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["photos"], summary["skipped"], summary["embedded"]) == (1, 12, 11)
    assert "2 photos failed for good in earlier runs. Embed them again with --retry-errors all" in done.stderr
    assert len(rows_of(out)) == 13
    again = clip_embed(*arguments, "--resume", "--retry-errors", "all")
    assert json.loads(again.stdout)["photos"] == 2
    fake_gcs.delete(bucket, "2024/new.jpg")
    pruned = clip_embed(*arguments, "--resume", "--prune")
    assert "1 row of an object that no longer exists was removed" in pruned.stderr
    assert len(rows_of(out)) == 12


def test_two_buckets_in_one_file(
    server: TritonServer, fake_gcs: FakeGcs, bucket: str, tmp_path: Path
) -> None:
    """Objects of equal name keep a row each."""
    other = f"other-{uuid.uuid4().hex[:8]}"
    for index, photo in enumerate(camera_photos(2, seed=10)):
        fake_gcs.upload(other, f"2024/{index:02d}.jpg", photo)
    out = tmp_path / "out.parquet"
    options = ("--out", str(out), "--url", server.grpc_url, "--json", "--resume")
    assert clip_embed(f"gs://{bucket}", *options).returncode == 1
    refused = clip_embed(f"gs://{other}", *options)
    assert refused.returncode == 2
    assert f"holds rows of gs://{bucket}, and this run reads gs://{other}" in refused.stderr
    added = clip_embed(f"gs://{other}", *options, "--add-source")
    assert json.loads(added.stdout)["embedded"] == 12
    table = pq.read_table(out)
    keys = zip(table["source"].to_pylist(), table["name"].to_pylist(), strict=True)
    assert {(f"gs://{bucket}", "2024/00.jpg"), (f"gs://{other}", "2024/00.jpg")} <= set(keys)


@pytest.mark.parametrize(
    ("source", "out", "said"),
    [
        ("gs://no-such-bucket/x", "new.parquet", "gs://no-such-bucket does not exist"),
        ("gs://{bucket}/*.jpg", "new.parquet", "Patterns are not expanded"),
        ("no/such/folder", "new.parquet", "no/such/folder does not exist"),
        ("gs://{bucket}", "old.parquet", "old.parquet exists. Give --resume"),
        ("gs://{bucket}", "old.parquet/new.parquet", "old.parquet is not a folder"),
        ("gs://{bucket}", "gs://no-such-bucket/new.parquet", "gs://no-such-bucket does not exist"),
        ("gs://{bucket}", "ftp://host/new.parquet", "ftp:// is not supported"),
        ("gs://{bucket}", "new.csv", "End its name in .parquet"),
    ],
)
def test_source_and_output_are_checked_before_the_server(
    bucket: str, tmp_path: Path, source: str, out: str, said: str
) -> None:
    (tmp_path / "old.parquet").write_bytes(b"of an earlier run")
    where = [text.format(bucket=bucket) for text in (source, out)]
    options = ("--url", "127.0.0.1:9", "--wait", str(10 * PATIENCE_S))
    done = clip_embed(where[0], "--out", where[1], *options, cwd=tmp_path, env=os.environ)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["old.parquet"]


def test_no_server_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    out = tmp_path / "o.parquet"
    done = clip_embed(str(tmp_path), "--out", str(out), "--url", "127.0.0.1:9", "--wait", "1")
    assert done.returncode == 2
    assert "no answer from the server at 127.0.0.1:9" in done.stderr
    assert "clip-serve" in done.stderr
    assert not out.exists()


def test_a_bucket_that_does_not_exist(server: TritonServer, fake_gcs: FakeGcs, tmp_path: Path) -> None:
    del fake_gcs
    done = clip_embed("gs://no-such-bucket/x", "--out", str(tmp_path / "o.parquet"), "--url", server.grpc_url)
    assert done.returncode == 2
    assert "gs://no-such-bucket does not exist" in done.stderr


def test_an_empty_prefix(server: TritonServer, bucket: str, tmp_path: Path) -> None:
    done = clip_embed(f"gs://{bucket}/1999/", "--out", str(tmp_path / "o.parquet"), "--url", server.grpc_url)
    assert done.returncode == 2
    assert "no photos to embed" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_deleted_object_is_a_row(
    server: TritonServer, fake_gcs: FakeGcs, bucket: str, tmp_path: Path
) -> None:
    class Vanishing(GcsSource):
        """Deletes an object of the bucket between its listing and its loading."""

        def load(self, item: ObjectInfo) -> bytes:
            if item.name == "2024/03.jpg":
                fake_gcs.delete(bucket, item.name)
            return super().load(item)

    with ClipClient(server.grpc_url) as client:
        embed_all(client, Vanishing(bucket, ""), open_sink(str(tmp_path / "o.parquet")))
    row = rows_of(tmp_path / "o.parquet")["2024/03.jpg"]
    assert row["error_code"] == "not_found"
    assert "deleted after it was listed" in row["error_text"]


def test_the_output_folder_does_not_exist(server: TritonServer, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    done = clip_embed(str(tmp_path), "--out", str(blocked / "o.parquet"), "--url", server.grpc_url)
    assert done.returncode == 2
    assert "cannot write to" in done.stderr


def test_rows_of_another_model_are_rejected(server: TritonServer, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(camera_photos(1, seed=9)[0])
    out = tmp_path / "o.parquet"
    assert clip_embed(str(tmp_path), "--out", str(out), "--url", server.grpc_url).returncode == 0
    with pytest.raises(SinkError, match="another model's embeddings"):
        ParquetSink(out).open(str(tmp_path), {"weights_sha256": "other"}, 512, Existing(resume=True))


def test_check_reports_correct_and_unreachable_servers(server: TritonServer) -> None:
    right = clip_embed("--check", server.grpc_url, "--json")
    assert right.returncode == 0
    assert json.loads(right.stdout)["ok"] is True
    away = clip_embed("--check", "127.0.0.1:9", "--wait", "1")
    assert away.returncode == 2


def test_help_has_examples_and_exit_statuses(tmp_path: Path) -> None:
    done = clip_embed("--help", cwd=tmp_path, env={"PATH": os.environ["PATH"], "COLUMNS": "100"})
    assert done.returncode == 0
    assert "exit status:" in done.stdout
    assert "gs://" in done.stdout


_TIMED = """
import sys, time
from clip_client.cli import main
begin = time.monotonic()
code = main()
print(time.monotonic() - begin)
sys.exit(code)
"""


@pytest.mark.parametrize(
    "arguments", [("--check", "127.0.0.1:9"), (".", "--out", "o", "--url", "127.0.0.1:9")]
)
def test_waiting_for_a_missing_server_ends_in_time(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """Timed within the process: to start Python takes as long as the wait, on a busy machine."""
    command = [sys.executable, "-c", _TIMED, *arguments, "--wait", "1"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE_S, check=False, cwd=tmp_path
    )
    assert done.returncode == 2, done.stderr
    assert "within 1 s" in done.stderr
    assert float(done.stdout) < 20
