"""The embedded server: deaths that it survives, and ends that leave no process behind."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest

from clip_client import ClipClient, ItemError, check
from clip_client.requests.wire import Embedding
from clip_serving.errors import ConfigurationError, ServerError
from clip_serving.repository.spec import SPEC_FILE, ModelSpec
from clip_serving.repository.stage import InstanceLayout
from clip_serving.server import ports, supervisor
from clip_serving.server.embedded import ServerOptions, TritonServer
from testing.pictures import camera_photos, encoded, noise
from testing.processes import all_gone
from testing.repositories import linked_repository, make_repository
from testing.servers import short_lived
from testing.waiting import PATIENCE_S, wait_until

_SMALL = InstanceLayout(preprocess_instances=1, preprocess_threads=1, encoder_instances=1, encoder_threads=1)


@contextmanager
def clip_serve(
    repository: Path, *options: str, within: tuple[str, ...] = ()
) -> Iterator[tuple[subprocess.Popen[str], dict[str, object]]]:
    """The command itself, run by the command `within`, ready; killed afterwards if it still runs."""
    ports = ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]
    command = [sys.executable, "-m", "clip_serving.cli", "--repository", str(repository), "--json", *ports]
    process = subprocess.Popen(
        [*within, *command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield process, json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_command_leaves_no_process_behind(small_repository: Path, number: signal.Signals) -> None:
    with clip_serve(small_repository) as (process, _):
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 3, "tritonserver and a stub for each model"
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == (-number if number == signal.SIGKILL else 0)
        assert all_gone(family, timeout=PATIENCE_S)


def test_a_killed_stub_only_delays_requests(small_repository: Path) -> None:
    photos = camera_photos(4, seed=2)
    outcomes: list[Embedding | ItemError] = []
    over = threading.Event()
    with (
        TritonServer(small_repository, ServerOptions(layout=_SMALL)) as server,
        ClipClient(server.grpc_url, deadline_s=PATIENCE_S) as client,
    ):
        wanted = client.embed(photos)

        def load() -> None:
            while not over.is_set():
                outcomes.extend(client.request([photos[len(outcomes) % 4]]))

        worker = threading.Thread(target=load)
        worker.start()
        try:
            wait_until(lambda: len(outcomes) >= 5, "photos embedded before the kill")
            begin = time.monotonic()
            os.kill(server.stub_pids[0], signal.SIGKILL)
            wait_until(lambda: server.restarts, "a restart")
            print(f"ready again {time.monotonic() - begin:.1f} s after its stub was killed")
            enough = len(outcomes) + 5
            wait_until(lambda: len(outcomes) >= enough, "photos embedded after the restart")
        finally:
            over.set()
            worker.join()
        assert server.restarts == 1
    for index, outcome in enumerate(outcomes):
        assert not isinstance(outcome, ItemError), outcome
        assert float(outcome @ wanted[index % 4]) > 0.9999


_FRAGILE = """
import os
from clip_serving.triton_models.preprocess import TritonPythonModel as Preprocess
import triton_python_backend_utils as pb_utils

class TritonPythonModel(Preprocess):
    def execute(self, requests):
        for request in requests:
            if b"poison" in pb_utils.get_input_tensor_by_name(request, "image").as_numpy().reshape(-1):
                os._exit(1)
        return super().execute(requests)
"""


def test_a_photo_that_crashes_processes_fails_no_other_photo(
    small_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Photos share its batches, its process and its server; all of them are embedded in the end."""
    monkeypatch.setattr(supervisor, "Backoff", partial(supervisor.Backoff, waits_s=(0.0,)))
    make_repository(tmp_path / "fragile", small_repository / "clip_image_encoder" / "1", "null")
    (tmp_path / "fragile" / "clip_image_preprocess" / "1" / "model.py").write_text(_FRAGILE)
    photos = camera_photos(4, seed=6) * 4
    photos[5] = b"poison"
    options = ServerOptions(layout=_SMALL, check_reference=False)
    with (
        TritonServer(tmp_path / "fragile", options) as server,
        ClipClient(server.grpc_url, deadline_s=PATIENCE_S) as client,
    ):
        rows = client.embed(photos, on_error="return")
        assert server.restarts >= 2
    assert [index for index, row in enumerate(rows) if isinstance(row, ItemError)] == [5]
    assert isinstance(rows[5], ItemError)
    assert rows[5].code == "request_failed"


_SMALL_SHM = ("unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=5m tmpfs /dev/shm && exec "$@"', "sh")
"""Runs a command with 5 MB of shared memory: enough for two servers of two processes, but not for three."""
needs_namespaces = pytest.mark.skipif(
    subprocess.run([*_SMALL_SHM, "true"], capture_output=True, check=False).returncode != 0,
    reason="this machine does not let its users mount a /dev/shm of their own",
)


@needs_namespaces
def test_servers_that_died_leave_no_shared_memory(small_repository: Path) -> None:
    options = [f"--{name.replace('_', '-')}=1" for name in dataclasses.asdict(_SMALL)]
    photos = [encoded(noise(320, 240), "JPEG")]
    with (
        clip_serve(small_repository, *options, within=_SMALL_SHM) as (process, told),
        ClipClient(str(told["grpc_url"]), deadline_s=PATIENCE_S) as client,
    ):
        wanted = client.embed(photos)
        for _ in range(2):
            before = stubs_below(process.pid)
            before[0].kill()
            wait_until(partial(all_gone, before, timeout=0), "the end of the server")
            np.testing.assert_allclose(client.embed(photos), wanted, atol=1e-4)
        regions = list(Path(f"/proc/{process.pid}/root/dev/shm").iterdir())
        assert len(regions) <= 3, "of the server that runs"


def stubs_below(pid: int) -> list[psutil.Process]:
    family = psutil.Process(pid).children(recursive=True)
    return [one for one in family if "triton_python_backend_stub" in " ".join(one.cmdline())]


def starts(log: str) -> list[str]:
    """Its runs of tritonserver, but for those that crashed while they started.

    Triton 24.10 sometimes ends in its own shared-memory lock, on a busy machine, and is started again.
    """
    runs = log.split("=== clip-serve starts tritonserver, ")[1:]
    return [run for run in runs if "instance of 'boost::interprocess::lock_exception'" not in run]


def test_a_killed_server_is_restarted_and_its_log_continues(small_repository: Path, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    with TritonServer(small_repository, ServerOptions(layout=_SMALL, log=log)) as server:
        first = server.pid
        before = log.read_text()
        os.kill(first, signal.SIGKILL)
        with ClipClient(server.grpc_url, deadline_s=PATIENCE_S) as client:
            client.wait(PATIENCE_S)
            assert client.embed(camera_photos(1, seed=3)).shape == (1, 512)
        assert server.pid != first
    after = log.read_text()
    assert after.startswith(before)
    assert len(starts(after)) == 2, after


def test_the_command_ends_with_an_unsupervised_server(small_repository: Path) -> None:
    with clip_serve(small_repository, "--no-supervise") as (process, told):
        assert Path(str(told["log"])).is_file()
        (server,) = [one for one in psutil.Process(process.pid).children() if one.pid == told["pid"]]
        server.kill()
        assert process.wait(PATIENCE_S) == 2
        assert process.stderr is not None
        assert "tritonserver ended (signal SIGKILL), and --no-supervise was given" in process.stderr.read()


def test_a_format_that_the_embedded_server_cannot_run_is_rejected_immediately(small_repository: Path) -> None:
    options = ServerOptions(model_config_name="torchscript")
    with (
        pytest.raises(ConfigurationError, match=r"torchscript.pbtxt needs Triton's backend pytorch.* python"),
        TritonServer(small_repository, options),
    ):
        pass


def test_a_models_load_error_is_a_sentence(small_repository: Path, tmp_path: Path) -> None:
    root = linked_repository(small_repository, tmp_path)
    for graph in (root / "clip_image_encoder" / "1").glob("*.onnx"):
        graph.unlink()
    with (
        pytest.raises(
            ServerError, match=r"clip_image_encoder .* could not be loaded: .*model\.onnx is missing"
        ),
        TritonServer(root),
    ):
        pass


def test_a_server_with_wrong_embeddings_is_not_ready(small_repository: Path, tmp_path: Path) -> None:
    spec = ModelSpec.load(small_repository / "clip_image_encoder" / "1" / SPEC_FILE)
    wrong = dataclasses.replace(spec, resize_mode="squash")
    root = linked_repository(small_repository, tmp_path, wrong)
    with pytest.raises(ServerError, match="embeds incorrectly: cosine"), TritonServer(root):
        pass


def test_old_connections_are_renewed_and_no_request_notices(small_repository: Path) -> None:
    arguments = ("--grpc-max-connection-age=300", "--grpc-max-connection-age-grace=5000")
    options = ServerOptions(layout=_SMALL, supervise=False, extra_arguments=arguments)
    photo, over = camera_photos(1, seed=5), threading.Event()
    used: set[int] = set()
    with (
        TritonServer(small_repository, options) as server,
        ClipClient(server.grpc_url, deadline_s=PATIENCE_S) as client,
    ):
        port = int(server.grpc_url.rpartition(":")[2])

        def look() -> None:
            while not over.wait(0.01):
                found = psutil.Process().net_connections("tcp")
                used.update(one.laddr.port for one in found if one.raddr and one.raddr.port == port)

        looking = threading.Thread(target=look, daemon=True)
        looking.start()
        try:
            wanted = client.embed(photo)

            def embed_again() -> bool:
                assert float(client.embed(photo)[0] @ wanted[0]) > 0.9999
                return len(used) > 4

            wait_until(embed_again, "five connections, one after the other")
        finally:
            over.set()
            looking.join()


def test_a_port_that_is_taken_before_triton_listens_is_replaced(
    server: TritonServer, small_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of the metrics, without which Triton starts all the same."""
    others = int(server.metrics_url.rsplit(":", 1)[1].partition("/")[0])
    free = ports.reserve

    def late(host: str, wanted: Sequence[int]) -> list[int]:
        monkeypatch.setattr(ports, "reserve", free)
        return [*free(host, wanted)[:2], others]

    monkeypatch.setattr(ports, "reserve", late)
    with short_lived(small_repository, ServerOptions(layout=_SMALL, check_reference=False)) as second:
        assert second.metrics_url != server.metrics_url
        assert check(second.grpc_url).ok


def test_a_taken_port_is_named(server: TritonServer, small_repository: Path) -> None:
    port = int(server.grpc_url.rsplit(":", 1)[1])
    with (
        pytest.raises(ServerError, match=f"cannot use port {port} on 127.0.0.1 "),
        TritonServer(small_repository, ServerOptions(grpc_port=port)),
    ):
        pass
