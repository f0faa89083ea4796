"""The container's health check on a real server: right, hanging, and with dead Python processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from clip_client import check
from clip_serving.repository.stage import InstanceLayout
from clip_serving.server.embedded import ServerOptions, TritonServer
from testing.servers import short_lived
from testing.waiting import PATIENCE_S, wait_until

SCRIPT = Path(__file__).resolve().parent.parent.parent / "deploy" / "healthcheck.py"


def test_server_that_hangs_is_ended_after_several_failures(small_repository: Path, tmp_path: Path) -> None:
    with TritonServer(small_repository, ServerOptions(supervise=False)) as server:

        def check(wait_s: float) -> tuple[int, str]:
            command = f"{sys.executable} -m clip_client.cli --check {server.grpc_url} --wait {wait_s}"
            done = subprocess.run(
                [
                    *(sys.executable, str(SCRIPT), f"--check={command}", f"--pid={server.pid}"),
                    *(f"--state={tmp_path / 'state'}", "--failures=2", "--grace=1"),
                ],
                capture_output=True,
                text=True,
                check=False,
            )
            return done.returncode, done.stderr

        assert check(PATIENCE_S) == (0, "")
        for stub in server.stub_pids:
            os.kill(stub, signal.SIGSTOP)
        status, said = check(2)
        assert status == 1
        assert "unhealthy (1 in a row): clip-embed: error: no answer" in said
        assert "ending" not in said
        status, said = check(2)
        assert status == 1
        assert "ending the server" in said
        wait_until(lambda: "tritonserver ended" in (server.death() or ""), "the end of the server")


def test_server_with_one_dead_process_among_several_is_unhealthy(small_repository: Path) -> None:
    """It embeds, in the processes that are left; whoever meets the dead one is not served."""
    layout = InstanceLayout(
        preprocess_instances=2, preprocess_threads=1, encoder_instances=1, encoder_threads=1
    )
    with short_lived(small_repository, ServerOptions(layout=layout)) as server:
        assert check(server.grpc_url).ok
        preprocess = next(pid for pid in server.stub_pids if "preprocess" in command_of(pid))
        os.kill(preprocess, signal.SIGKILL)
        found = [check(server.grpc_url) for _ in range(6)]
    maimed = [result for result in found if not result.ok]
    assert maimed
    assert all("one of its Python processes has died" in result.message for result in maimed)
    assert all(result.cosine is not None and result.cosine > 0.999 for result in found)


def test_one_dead_process_of_several_is_found_and_ended_at_once(
    small_repository: Path, tmp_path: Path
) -> None:
    """One of four, three of four, then the encoder's too."""
    layout = InstanceLayout(
        preprocess_instances=4, preprocess_threads=1, encoder_instances=1, encoder_threads=1
    )
    with TritonServer(small_repository, ServerOptions(layout=layout, supervise=False)) as server:

        def healthcheck(*options: str) -> tuple[int, str]:
            command = [sys.executable, str(SCRIPT), f"--pid={server.pid}", f"--state={tmp_path / 'state'}"]
            check = f"{sys.executable} -m clip_client.cli --check {server.grpc_url} --wait {PATIENCE_S}"
            done = subprocess.run(
                [*command, f"--check={check}", f"--timeout={PATIENCE_S}", "--grace=20", *options],
                capture_output=True,
                text=True,
                check=False,
            )
            return done.returncode, done.stderr

        assert healthcheck() == (0, "")
        preprocess = [pid for pid in server.stub_pids if "preprocess" in command_of(pid)]
        (encoder,) = set(server.stub_pids) - set(preprocess)
        for dead, victims in ((1, preprocess[:1]), (3, preprocess[1:3]), (4, [encoder])):
            for pid in victims:
                os.kill(pid, signal.SIGKILL)
            wait_until(lambda: server.death(), "a death")
            status, said = healthcheck("--report-only")
            assert (status, f"{dead} of 5 Python processes have died" in said) == (1, True), said
            assert "ending" not in said
        status, said = healthcheck()
        assert status == 1
        assert "ending the server" in said, "the first check that may end it does so"
        wait_until(lambda: "tritonserver ended" in (server.death() or ""), "the end of the server")


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()
