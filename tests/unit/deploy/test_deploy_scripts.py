"""deploy/healthcheck.py and deploy/export_once.py, as the programs that the containers run."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from clip_client import cli
from clip_client.cli.arguments import parser
from clip_serving import defaults
from clip_serving.repository.families.base import ModelFamily
from clip_serving.repository.families.image import IMAGE, ImageFamily
from clip_serving.repository.families.text import TEXT, TextFamily
from clip_serving.server import arguments
from testing.waiting import PATIENCE_S, wait_until

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"

# An init that passes SIGTERM on to its one child, waits, and ends as it ended.
_INIT = """
import signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
signal.signal(signal.SIGTERM, lambda *_: child.terminate())
print(child.pid, flush=True)
sys.exit(child.wait() & 0xFF)
"""
_OBEDIENT = "import time; time.sleep(600)"
_DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


class Container:
    """An init with a server below it, and health checks of it."""

    def __init__(self, server: str, folder: Path) -> None:
        self.init = subprocess.Popen(
            [sys.executable, "-c", _INIT, server], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self.init.stdout is not None
        self.server = int(self.init.stdout.readline())
        self._state = folder / "state.json"

    def check(self, command: str, grace: float = 0.5, timeout: float = PATIENCE_S) -> tuple[int, str]:
        done = subprocess.run(
            [
                *(sys.executable, str(DEPLOY / "healthcheck.py"), f"--check={command}"),
                *(f"--pid={self.init.pid}", f"--state={self._state}", "--failures=3"),
                *(f"--grace={grace}", f"--timeout={timeout}"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stderr

    def close(self) -> None:
        if self.init.poll() is None:
            os.killpg(self.init.pid, signal.SIGKILL)
        self.init.wait()
        assert self.init.stdout is not None
        self.init.stdout.close()


@pytest.fixture
def obedient(tmp_path: Path) -> Iterator[Container]:
    container = Container(_OBEDIENT, tmp_path)
    yield container
    container.close()


@pytest.fixture
def deaf(tmp_path: Path) -> Iterator[Container]:
    container = Container(_DEAF, tmp_path)
    yield container
    container.close()


def test_server_is_ended_after_three_failures_in_a_row(obedient: Container) -> None:
    assert obedient.check("true")[0] == 0
    assert obedient.check("false") == (1, "unhealthy (1 in a row): false ended with exit status 1\n")
    assert obedient.check("false")[0] == 1
    assert obedient.init.poll() is None
    status, said = obedient.check("false")
    assert status == 1
    assert "ending the server" in said
    assert obedient.init.wait(PATIENCE_S) != 0


def test_one_success_forgets_the_failures(obedient: Container) -> None:
    for command in ("true", "false", "false", "true", "false", "false"):
        obedient.check(command)
    assert obedient.init.poll() is None


def test_a_busy_server_is_not_ended(obedient: Container) -> None:
    for _ in range(4):
        assert obedient.check(f"sh -c 'exit {cli.BUSY}'")[0] == 0
    assert obedient.init.poll() is None


def test_nothing_is_ended_before_the_first_success(obedient: Container) -> None:
    for _ in range(5):
        assert obedient.check("false")[0] == 1
    assert obedient.init.poll() is None


def test_server_that_ignores_sigterm_is_killed(deaf: Container) -> None:
    deaf.check("true")
    for _ in range(3):
        deaf.check("false", grace=0.3)
    assert deaf.init.wait(PATIENCE_S) != 0


def test_check_that_hangs_counts_as_a_failure(obedient: Container) -> None:
    status, said = obedient.check("sleep 30", timeout=0.2)
    assert status == 1
    assert "no answer within" in said


def test_last_line_of_the_check_is_logged(obedient: Container) -> None:
    _, said = obedient.check("sh -c 'echo noise >&2; echo WRONG: cosine 0.2 >&2; exit 1'")
    assert said == "unhealthy (1 in a row): WRONG: cosine 0.2\n"


def test_an_earlier_runs_failures_are_not_counted(obedient: Container, deaf: Container) -> None:
    """A pod's /tmp outlives its containers."""
    obedient.check("true")
    for _ in range(2):
        obedient.check("false")
    deaf._state = obedient._state
    assert deaf.check("false")[1].startswith("unhealthy (1 in a row)")
    assert deaf.init.poll() is None


# --- start_server.py -----------------------------------------------------------------------------


def test_a_started_server_has_clean_shared_memory_and_a_key() -> None:
    """The prefix has this host's name, as in a container; another host's regions stay."""
    own = Path(f"/dev/shm/clip-triton-{socket.gethostname()}-test-{os.getpid()}")
    other = Path(f"/dev/shm/clip-triton-other-{socket.gethostname()}-{os.getpid()}")
    own.touch()
    other.touch()
    try:
        runs = []
        for key in ("", "", "secret"):
            done = subprocess.run(
                [sys.executable, str(DEPLOY / "start_server.py"), "echo", "--grpc-port=1"],
                capture_output=True, text=True, check=True, env={**os.environ, "CLIP_ADMIN_KEY": key},
            )  # fmt: skip
            runs.append(done.stdout.split())
        assert not own.exists()
        assert other.exists()
    finally:
        own.unlink(missing_ok=True)
        other.unlink()
    assert len({tuple(run) for run in runs}) == 3, "keys are random"
    ours = arguments.server_arguments(
        repository="",
        host="",
        admin_key="secret",
        shm_prefix=f"clip-triton-{socket.gethostname()}-",
    )
    assert runs[2][0] == "--grpc-port=1"
    assert set(runs[2][1:]) <= set(ours)


@pytest.mark.parametrize("tier", get_args(defaults.Tier))
@pytest.mark.parametrize(
    "families", [[IMAGE], [IMAGE, TEXT], [IMAGE, TEXT, ImageFamily("large"), TextFamily("large")]]
)
def test_a_tier_loads_its_models(
    tmp_path: Path, tier: defaults.Tier, families: list[ModelFamily[Any, Any]]
) -> None:
    for family in families:
        for model in family.models:
            (tmp_path / model).mkdir()
            (tmp_path / model / "config.pbtxt").touch()
    wanted = {model for family in families for model in family.served(tier)}
    base = arguments.server_arguments(repository=str(tmp_path), host="0.0.0.0")
    done = start("echo", *base, tier=tier)
    words = done.stdout.split()
    assert {word.partition("=")[2] for word in words if word.startswith("--load-model=")} == wanted
    assert "--model-control-mode=explicit" in words
    assert set(base) - set(words) == {"--model-control-mode=none"}


def test_a_wrong_or_empty_tier_is_named(tmp_path: Path) -> None:
    for tier, said in (("gpu", "must be decode, encode or empty"), ("decode", "no model of the tier")):
        done = start("echo", f"--model-repository={tmp_path}", tier=tier)
        assert done.returncode == 1
        assert said in done.stderr


def start(*command: str, tier: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(DEPLOY / "start_server.py"), *command],
        capture_output=True, text=True, check=False, env={**os.environ, "CLIP_TIER": tier},
    )  # fmt: skip


def test_the_health_check_is_that_of_the_tier(tmp_path: Path) -> None:
    """Its default command runs python3: here one that records its arguments."""
    python = tmp_path / "python3"
    python.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
    python.chmod(0o755)
    for tier in ("", "decode"):
        subprocess.run(
            [sys.executable, str(DEPLOY / "healthcheck.py"), f"--state={tmp_path}/state", "--report-only"],
            check=True, env={**os.environ, "CLIP_TIER": tier, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        )  # fmt: skip
    plain, decode = (tmp_path / "calls").read_text().splitlines()
    assert decode == f"{plain} --tier decode"
    options = parser().parse_args(decode.split()[2:])
    assert (options.check, options.tier) == ([f"127.0.0.1:{defaults.GRPC_PORT}"], "decode")


# --- export_once.py ------------------------------------------------------------------------------

_FAKE_EXPORT = """#!{python}
import json, pathlib, sys, time
try:
    with open({calls!r}, "a") as calls:
        calls.write(json.dumps(sys.argv[1:]) + "\\n")
    if "--model=slow" in sys.argv:
        time.sleep(600)
except KeyboardInterrupt:
    pathlib.Path({repository!r}, "cleaned").touch()
    sys.exit(130)
if "--model=broken" in sys.argv:
    sys.exit(2)
if not any(argument.startswith("--activate") for argument in sys.argv):
    pathlib.Path({repository!r}, "clip_image_encoder", "1").mkdir(parents=True, exist_ok=True)
    print(json.dumps({{"version": 1, "model": "M", "pretrained": "P", "random_weights": False}}))
"""


class Exporter:
    """A stand-in for clip-export that records how it was called; the real one takes a minute."""

    def __init__(self, folder: Path) -> None:
        self.repository = folder / "model_repository"
        self.repository.mkdir()
        self._calls = folder / "calls"
        self._program = folder / "clip-export"
        self._program.write_text(
            _FAKE_EXPORT.format(
                python=sys.executable, calls=str(self._calls), repository=str(self.repository)
            )
        )
        self._program.chmod(0o755)

    def start(
        self, *model: str, instances: int | str = 4, precision: str = "auto"
    ) -> subprocess.Popen[bytes]:
        command = [
            *(sys.executable, str(DEPLOY / "export_once.py"), f"--repository={self.repository}"),
            *(f"--command={self._program}", f"--preprocess-instances={instances}"),
            *(f"--encoder-precision={precision}", "--", *model),
        ]
        return subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def run(self, *model: str, instances: int | str = 4, precision: str = "auto") -> int:
        return self.start(*model, instances=instances, precision=precision).wait(PATIENCE_S)

    def wait_for_call(self) -> None:
        wait_until(lambda: self._calls.exists() and self._calls.read_text(), "a call of the export")

    def last_call(self) -> list[str]:
        call: list[str] = json.loads(self._calls.read_text().splitlines()[-1])
        return call


def test_same_model_is_not_exported_twice(tmp_path: Path) -> None:
    exporter = Exporter(tmp_path)
    assert exporter.run("--model=RN50") == 0
    assert "--model=RN50" in exporter.last_call()
    assert exporter.run("--model=RN50", instances=9, precision="int8") == 0
    assert exporter.last_call() == [
        "--activate=1",
        f"--repository={exporter.repository}",
        "--preprocess-instances=9",
        "--encoder-precision=int8",
    ]


def test_settings_that_are_empty_are_not_given(tmp_path: Path) -> None:
    exporter = Exporter(tmp_path)
    exporter.run("--model=RN50", "--quality=exact", instances="", precision="")
    assert exporter.last_call() == [
        f"--repository={exporter.repository}", "--json", "--model=RN50", "--quality=exact",
    ]  # fmt: skip
    exporter.run("--model=RN50", "--quality=exact", instances="", precision="")
    assert exporter.last_call() == ["--activate=1", f"--repository={exporter.repository}"]


def test_another_model_or_a_lost_version_is_exported(tmp_path: Path) -> None:
    exporter = Exporter(tmp_path)
    exporter.run("--model=RN50")
    exporter.run("--model=RN101")
    assert "--model=RN101" in exporter.last_call()
    (exporter.repository / "clip_image_encoder" / "1").rmdir()
    exporter.run("--model=RN101")
    assert "--model=RN101" in exporter.last_call()


@pytest.mark.parametrize("option", ["--pretrained={}/mine.pt", "--model=local-dir:{}"])
def test_changed_weights_are_exported_again(tmp_path: Path, option: str) -> None:
    exporter, folder = Exporter(tmp_path), tmp_path / "weights"
    folder.mkdir()
    option = option.format(folder)
    (folder / "mine.pt").write_bytes(b"1")
    exporter.run(option)
    exporter.run(option)
    assert exporter.last_call()[0] == "--activate=1"
    (folder / "mine.pt").write_bytes(b"22")
    exporter.run(option)
    assert option in exporter.last_call()


def test_failed_export_fails_and_is_retried(tmp_path: Path) -> None:
    exporter = Exporter(tmp_path)
    assert exporter.run("--model=broken") == 2
    assert exporter.run("--model=broken") == 2
    assert "--model=broken" in exporter.last_call()


def test_stopped_export_cleans_up(tmp_path: Path) -> None:
    exporter = Exporter(tmp_path)
    running = exporter.start("--model=slow")
    exporter.wait_for_call()
    running.terminate()
    assert running.wait(PATIENCE_S) == 130
    assert (exporter.repository / "cleaned").exists()
