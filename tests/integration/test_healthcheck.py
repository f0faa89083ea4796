"""The container's health check on a real server: right, then with its Python process dead."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from clip_serving.launcher import ServerOptions, TritonServer

SCRIPT = Path(__file__).resolve().parent.parent.parent / "deploy" / "healthcheck.py"


def test_server_whose_stub_died_is_ended(repository: Path, tmp_path: Path) -> None:
    with TritonServer(repository, ServerOptions(supervise=False)) as server:

        def check() -> tuple[int, str]:
            command = f"{sys.executable} -m clip_client.cli --check {server.grpc_url} --wait 2"
            done = subprocess.run(
                [
                    *(sys.executable, str(SCRIPT), f"--check={command}", f"--pid={server.pid}"),
                    *(f"--state={tmp_path / 'state'}", "--failures=2", "--grace=20"),
                ],
                capture_output=True,
                text=True,
                check=False,
            )
            return done.returncode, done.stderr

        assert check() == (0, "")
        for stub in server.stub_pids:
            os.kill(stub, signal.SIGKILL)
        status, said = check()
        assert status == 1
        assert "unhealthy (1 in a row): clip-embed: error: no answer" in said
        assert "ending" not in said
        status, said = check()
        assert status == 1
        assert "ending the server" in said
        ended = server._process
        assert ended is not None
        assert ended.wait(20) is not None
