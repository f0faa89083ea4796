"""A bucket behind a login: google-auth's own, to a token service of this machine that comes and goes."""

from __future__ import annotations

import json
import math
import os
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from clip_client import ItemError, SourceError, SourceOptions
from clip_client.sources.gcs import GcsSource
from clip_serving.server.embedded import TritonServer
from testing.fake_gcs import FakeGcs
from testing.pictures import camera_photos
from tests.integration.embed_command import clip_embed


class TokenService(ThreadingHTTPServer):
    """Gives `left` tokens, each so short-lived that every request needs another; then refuses."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Tokens)
        self.left = math.inf
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}/token"


class _Tokens(BaseHTTPRequestHandler):
    server: TokenService

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.lock:
            self.server.left -= 1
            given = self.server.left >= 0
        token = {"access_token": "t", "expires_in": 1, "token_type": "Bearer"}
        refusal = {"error": "invalid_grant", "error_description": "Token has been expired or revoked."}
        body = json.dumps(token if given else refusal).encode()
        self.send_response(200 if given else 400)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing of each request."""


@pytest.fixture
def tokens() -> Iterator[TokenService]:
    with TokenService() as service:
        threading.Thread(target=service.serve_forever, args=(0.05,)).start()
        yield service
        service.shutdown()


@pytest.fixture
def login(
    fake_gcs: FakeGcs, tokens: TokenService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> TokenService:
    """The environment of a login with no project, as `gcloud auth application-default login` makes one."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path / "login.json"
    account = {"type": "service_account", "client_email": "a@b", "token_uri": tokens.url}
    path.write_text(json.dumps({**account, "private_key": key.decode()}))
    for name in ("STORAGE_EMULATOR_HOST", "GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    monkeypatch.setenv("API_ENDPOINT_OVERRIDE", fake_gcs.url)
    monkeypatch.setenv("NO_GCE_CHECK", "true")  # or google-auth looks for a project on this machine's network
    return tokens


@pytest.fixture
def bucket(fake_gcs: FakeGcs) -> str:
    name = f"album-{uuid.uuid4().hex[:8]}"
    photos = camera_photos(3, seed=11)
    for index in range(24):
        fake_gcs.upload(name, f"{index:02d}.jpg", photos[index % 3])
    return name


@pytest.mark.usefixtures("login")
def test_a_login_without_a_project_is_enough(bucket: str) -> None:
    source = GcsSource(bucket)
    item = next(iter(source.list()))
    assert len(source.load(item)) == item.size


def test_no_login_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "absent.json"))
    with pytest.raises(SourceError, match=r"no Google credentials for gs://b .*absent.*gcloud auth"):
        GcsSource("b")


def test_a_public_bucket_needs_no_login(
    fake_gcs: FakeGcs, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "absent.json"))
    monkeypatch.setenv("API_ENDPOINT_OVERRIDE", fake_gcs.url)
    source = GcsSource(bucket, "", SourceOptions(anonymous=True))
    item = next(iter(source.list()))
    assert len(source.load(item)) == item.size
    with pytest.raises(SourceError, match="or give --anonymous for a public bucket"):
        GcsSource(bucket)


def test_an_expired_login_ends_the_run(login: TokenService, bucket: str) -> None:
    source = GcsSource(bucket)
    item = next(iter(source.list()))
    login.left = 0
    with pytest.raises(SourceError, match=r"expired or revoked.*gcloud auth") as caught:
        source.load(item)
    assert not isinstance(caught.value, ItemError)
    with pytest.raises(SourceError, match=r"expired or revoked"):
        list(source.list())


def test_a_login_that_expires_during_a_run(
    server: TritonServer, login: TokenService, bucket: str, tmp_path: Path
) -> None:
    login.left = 13
    out = tmp_path / "out.parquet"
    arguments = (
        f"gs://{bucket}",
        "--out",
        str(out),
        "--url",
        server.grpc_url,
        "--concurrency",
        "2",
        "--json",
    )
    done = clip_embed(*arguments, env=os.environ)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "gcloud auth application-default login" in done.stderr
    shards = out.with_name("out.parquet.parts").glob("shard-*.parquet")
    kept = [row for shard in shards for row in pq.read_table(shard).to_pylist()]
    assert 0 < len(kept) < 13
    assert {row["error_code"] for row in kept} == {None}
    login.left = math.inf
    again = clip_embed(*arguments, env=os.environ)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["skipped"] == len(kept)
    assert pq.read_table(out).num_rows == 24
