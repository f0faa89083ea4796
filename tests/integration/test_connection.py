"""TLS and headers to a server that insists on them, and servers that are not ours."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import trustme

from clip_client import (
    AsyncClipClient,
    ClipClient,
    ConnectionOptions,
    ServerMismatch,
    ServerUnavailable,
    check,
)
from clip_profile.cli import main as profile
from clip_profile.records.run_folder import RunFolder
from clip_serving.repository.stage import InstanceLayout
from clip_serving.server.embedded import ServerOptions, TritonServer
from testing.pictures import encoded, source_picture
from testing.servers import short_lived
from testing.waiting import PATIENCE_S

_HEADER = "triton-grpc-protocol-clip-key"
_SOON = 3.0
"""A deadline in seconds for connections that never come to be."""


@dataclasses.dataclass(frozen=True)
class Guarded:
    """A server that wants TLS, a client certificate and a header; `options` are all that it wants."""

    url: str
    options: ConnectionOptions
    authority: trustme.CA
    other_authority: Path


def written(path: Path, *blobs: trustme.Blob) -> Path:
    path.write_bytes(b"".join(blob.bytes() for blob in blobs))
    return path


@pytest.fixture(scope="module")
def guarded(small_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    root = written(folder / "root.pem", authority.cert_pem)
    server, client = authority.issue_cert("127.0.0.1"), authority.issue_cert("photos@example.org")
    ours = ConnectionOptions(
        ssl=True,
        root_certificates=root,
        private_key=written(folder / "client.key", client.private_key_pem),
        certificate_chain=written(folder / "client.pem", *client.cert_chain_pems),
        headers={_HEADER: "secret"},
    )
    arguments = (
        "--grpc-use-ssl=1",
        "--grpc-use-ssl-mutual=1",
        f"--grpc-root-cert={root}",
        f"--grpc-server-cert={written(folder / 'server.pem', *server.cert_chain_pems)}",
        f"--grpc-server-key={written(folder / 'server.key', server.private_key_pem)}",
        "--grpc-restricted-protocol=inference,statistics,trace:clip-key=secret",
    )
    options = ServerOptions(
        layout=InstanceLayout(1, 1, 1, 1),
        encoder_precision="fp32",
        check_reference=False,
        extra_arguments=arguments,
    )
    with short_lived(small_repository, options) as running:
        yield Guarded(running.grpc_url, ours, authority, written(folder / "other.pem", trustme.CA().cert_pem))


@pytest.fixture
def misnamed(guarded: Guarded) -> Iterator[str]:
    """The address of a gRPC server whose trusted certificate is for another name.

    It has one address: of a name with two, such as localhost, gRPC reports only one.
    """
    certificate = guarded.authority.issue_cert("photos.example.org")
    chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_secure_port(
        "127.0.0.1:0", grpc.ssl_server_credentials([(certificate.private_key_pem.bytes(), chain)])
    )
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(grace=None).wait(PATIENCE_S)


@pytest.fixture(scope="module")
def photo() -> bytes:
    return encoded(source_picture("chelsea.png"), "JPEG")


def embed(url: str, photo: bytes, connection: ConnectionOptions | None = None, **options: Any) -> Any:
    with ClipClient(url, connection=connection, **options) as client:
        return client.embed([photo])


def embed_async(url: str, photo: bytes, connection: ConnectionOptions | None = None, **options: Any) -> Any:
    async def run() -> Any:
        async with AsyncClipClient(url, connection=connection, **options) as client:
            return await client.embed([photo])

    return asyncio.run(run())


def clip_embed(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "clip_client.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def switches(options: ConnectionOptions) -> list[str]:
    """clip-embed's, for the same connection."""
    return [
        "--ssl",
        f"--root-certificates={options.root_certificates}",
        f"--private-key={options.private_key}",
        f"--certificate-chain={options.certificate_chain}",
        *(f"--header={name.title()}: {value}" for name, value in options.headers.items()),
    ]


def test_tls_and_headers_pass_through(guarded: Guarded, server: TritonServer, photo: bytes) -> None:
    wanted = embed(server.grpc_url, photo)
    for rows in (
        embed(guarded.url, photo, guarded.options),
        embed_async(guarded.url, photo, guarded.options),
    ):
        np.testing.assert_allclose(rows, wanted, atol=1e-5)


def test_header_names_can_have_capitals(guarded: Guarded, photo: bytes) -> None:
    capitals = dataclasses.replace(guarded.options, headers={_HEADER.title(): "secret"})
    assert embed(guarded.url, photo, capitals).shape == (1, 512)


def test_the_check_passes_them_too(guarded: Guarded) -> None:
    result = check(guarded.url, connection=guarded.options, wait_s=60)
    assert result.ok, result.message


def test_the_stages_of_such_a_server(
    guarded: Guarded,
    photo: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "cat.jpg").write_bytes(photo)
    load = ["--count", "3", "--concurrency", "1", "--warm-up", "0", "--json"]
    command = ["stages", "--photos", str(tmp_path), "--url", guarded.url, *load]
    command += switches(guarded.options)
    monkeypatch.setattr(sys, "argv", ["clip-profile", *command])
    assert profile(command) == 0, capsys.readouterr().err
    told = json.loads(capsys.readouterr().out)
    assert told["queue_from"] in ("traces", "statistics"), "both are told to those with the header alone"
    assert told["photos"] >= 3
    assert f"--header={_HEADER.title()}: ..." in told["about"]["command"], "and keeps no secret"


def test_the_commands_switches(guarded: Guarded, photo: bytes, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(photo)
    out = tmp_path / "out.parquet"
    arguments = [str(tmp_path / "photos"), "--out", str(out), "--url", guarded.url, "--quiet"]
    done = clip_embed(*arguments, *switches(guarded.options))
    assert done.returncode == 0, done.stderr
    assert out.exists()
    checked = clip_embed("--check", guarded.url, *switches(guarded.options))
    assert checked.returncode == 0, checked.stderr
    keyless = clip_embed(*arguments, "--overwrite", *switches(guarded.options)[:-1])
    assert keyless.returncode == 2, keyless.stderr
    assert f"expecting header '{_HEADER}'" in keyless.stderr
    assert "--header" in keyless.stderr


@pytest.mark.slow
def test_a_sweep_passes_them_and_keeps_no_secret(guarded: Guarded, photo: bytes, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(photo)
    command = [
        *(
            "sweep",
            "--photos",
            str(tmp_path / "photos"),
            "--out",
            str(tmp_path / "run"),
            "--url",
            guarded.url,
        ),
        *("--concurrency", "2", "--seconds", "1.5", "--rounds", "0", *switches(guarded.options)),
    ]
    program = [sys.executable, "-m", "clip_profile.cli"]
    done = subprocess.run(
        [*program, *command], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    run = RunFolder.load(tmp_path / "run")
    assert not run.failures, done.stderr
    (one,) = run.measurements
    assert one.stages["embed"].batches, "out of the statistics, which want the header too"
    kept = "".join(path.read_text() for path in (tmp_path / "run").iterdir())
    assert _HEADER in kept.lower()
    assert "secret" not in kept


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param({"ssl": False}, "--ssl", id="no TLS"),
        pytest.param({"root_certificates": None}, "TLS failed: .* not trusted", id="no root"),
        pytest.param({"root_certificates": "other"}, "TLS failed: .* not trusted", id="wrong root"),
        pytest.param({"private_key": None, "certificate_chain": None}, "certificate", id="no certificate"),
    ],
)
@pytest.mark.parametrize("how", [embed, embed_async])
def test_a_connection_that_does_not_fit(
    guarded: Guarded, photo: bytes, how: Any, change: dict[str, Any], said: str
) -> None:
    if change.get("root_certificates"):
        change = {"root_certificates": guarded.other_authority}
    with pytest.raises(ServerUnavailable, match=f"{guarded.url}.*{said}"):
        how(guarded.url, photo, dataclasses.replace(guarded.options, **change), deadline_s=_SOON)


@pytest.mark.parametrize("how", [embed, embed_async])
def test_addresses_that_are_wrong_are_named_at_once(
    guarded: Guarded, misnamed: str, server: TritonServer, photo: bytes, how: Any, unused_port: int
) -> None:
    for url, connection, said in (
        (misnamed, guarded.options, "TLS failed: the server's certificate is for another host name"),
        (
            server.grpc_url,
            ConnectionOptions(ssl=True),
            "TLS failed: the server does not use TLS on this port",
        ),
        (server.http_url.removeprefix("http://"), None, "Is that Triton's HTTP port"),
        (server.metrics_url.removeprefix("http://").partition("/")[0], None, "Is that Triton's HTTP port"),
        (f"127.0.0.1:{unused_port}", None, "nothing listens there"),
        ("no-such-host.invalid:8001", None, "host name is not known"),
    ):
        with pytest.raises(ServerUnavailable, match=f"cannot connect to {url}: .*{said}"):
            how(url, photo, connection, deadline_s=PATIENCE_S)


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize("headers", [{}, {_HEADER: "wrong"}], ids=["none", "wrong"])
@pytest.mark.parametrize("how", [embed, embed_async])
def test_a_missing_header_is_named_and_not_retried(
    guarded: Guarded, photo: bytes, headers: dict[str, str], how: Any
) -> None:
    """A client that retried until the deadline would report "no answer"."""
    options = dataclasses.replace(guarded.options, headers=headers)
    with pytest.raises(ServerUnavailable, match=f"rejects this client.*expecting header '{_HEADER}'"):
        how(guarded.url, photo, options, deadline_s=PATIENCE_S)


def test_a_missing_certificate_is_named(guarded: Guarded, tmp_path: Path, photo: bytes) -> None:
    gone = dataclasses.replace(guarded.options, root_certificates=tmp_path / "gone.pem")
    for how in (embed, embed_async):
        with pytest.raises(ServerUnavailable, match=r"root certificates .*gone\.pem: No such file"):
            how(guarded.url, photo, gone)
    done = clip_embed("--check", guarded.url, *switches(gone))
    assert done.returncode == 2
    assert "clip-embed: error: cannot read the root certificates" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("clip_imag", "does not serve clip_imag: .*unknown model"),
        ("clip_image_encoder", "'clip_image_encoder' is not a clip-triton model: .* one BYTES input"),
        ("clip_image_preprocess", "'clip_image_preprocess' is not a clip-triton model: .* one FP32 output"),
    ],
)
def test_a_model_that_is_not_the_ensemble(
    server: TritonServer, photo: bytes, tmp_path: Path, model: str, said: str
) -> None:
    for how in (embed, embed_async):
        with pytest.raises(ServerMismatch, match=said):
            how(server.grpc_url, photo, model=model)
    (tmp_path / "cat.jpg").write_bytes(photo)
    out = tmp_path / "out.parquet"
    done = clip_embed(str(tmp_path), "--out", str(out), "--url", server.grpc_url, "--model", model)
    assert done.returncode == 2
    assert re.search(f"clip-embed: error: the .*{said}", done.stderr)
    assert not out.exists()
