"""The embedded server's life: deaths that it survives, ends that leave nothing behind."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import tritonclient.grpc as grpc
from PIL import Image

from clip_client import ClipClient, ItemError
from clip_client.requests.wire import Embedding
from clip_serving import defaults
from clip_serving.errors import ConfigurationError, ServerError
from clip_serving.repository.spec import SPEC_FILE, ModelSpec
from clip_serving.repository.stage import InstanceLayout
from clip_serving.server.embedded import ServerOptions, TritonServer
from testing.pictures import camera_photos, encoded
from testing.processes import all_gone
from testing.repositories import linked_repository, make_repository

_SMALL = InstanceLayout(preprocess_instances=1, preprocess_threads=1, encoder_instances=1, encoder_threads=1)


@contextmanager
def clip_serve(repository: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, object]]]:
    """The command itself, ready; killed afterwards if it still runs."""
    ports = ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]
    command = [sys.executable, "-m", "clip_serving.cli", "--repository", str(repository), "--json", *ports]
    process = subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
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
        assert process.wait(30) == (-number if number == signal.SIGKILL else 0)
        assert all_gone(family, timeout=20)


def test_a_killed_stub_costs_time_and_nothing_else(small_repository: Path) -> None:
    photos = camera_photos(4, seed=2)
    outcomes: list[Embedding | ItemError] = []
    with TritonServer(small_repository, ServerOptions(layout=_SMALL)) as server:
        with ClipClient(server.grpc_url) as client:
            wanted = client.embed(photos)

            def load() -> None:
                outcomes.extend(client.request([photos[i % 4]])[0] for i in range(40))

            worker = threading.Thread(target=load)
            worker.start()
            time.sleep(0.5)
            begin = time.monotonic()
            os.kill(server.stub_pids[0], signal.SIGKILL)
            while server.restarts == 0 and time.monotonic() - begin < 60:
                time.sleep(0.05)
            print(f"the service answered again {time.monotonic() - begin:.1f} s after its stub was killed")
            worker.join(120)
        assert server.restarts == 1
    assert len(outcomes) == 40
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


def test_a_photo_that_processes_die_of_costs_no_other_photo(small_repository: Path, tmp_path: Path) -> None:
    """Photos share its batches, its process and its server; all of them are embedded in the end."""
    make_repository(tmp_path / "fragile", small_repository / "clip_image_encoder" / "1", "null")
    (tmp_path / "fragile" / "clip_image_preprocess" / "1" / "model.py").write_text(_FRAGILE)
    photos = camera_photos(4, seed=6) * 4
    photos[5] = b"poison"
    options = ServerOptions(layout=_SMALL, check_reference=False)
    with TritonServer(tmp_path / "fragile", options) as server, ClipClient(server.grpc_url) as client:
        rows = client.embed(photos, on_error="return")
        assert server.restarts >= 2
    assert [index for index, row in enumerate(rows) if isinstance(row, ItemError)] == [5]
    assert isinstance(rows[5], ItemError)
    assert rows[5].code == "request_failed"


def test_a_killed_server_is_started_again_and_its_log_goes_on(small_repository: Path, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    with TritonServer(small_repository, ServerOptions(layout=_SMALL, log=log)) as server:
        first = server.pid
        before = log.read_text()
        os.kill(first, signal.SIGKILL)
        with ClipClient(server.grpc_url, deadline_s=60) as client:
            assert client.embed(camera_photos(1, seed=3)).shape == (1, 512)
        assert server.pid != first
    after = log.read_text()
    assert after.startswith(before)
    assert after.count("clip-serve starts tritonserver") == 2


def test_a_server_that_nobody_restarts_ends_the_command(small_repository: Path) -> None:
    with clip_serve(small_repository, "--no-supervise") as (process, told):
        assert Path(str(told["log"])).is_file()
        (server,) = [one for one in psutil.Process(process.pid).children() if one.pid == told["pid"]]
        server.kill()
        assert process.wait(20) == 2
        assert process.stderr is not None
        assert "tritonserver ended (signal SIGKILL), and --no-supervise was given" in process.stderr.read()


def test_a_format_that_the_embedded_server_cannot_run_is_refused_at_once(small_repository: Path) -> None:
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


def test_a_server_that_embeds_wrongly_is_not_ready(small_repository: Path, tmp_path: Path) -> None:
    spec = ModelSpec.load(small_repository / "clip_image_encoder" / "1" / SPEC_FILE)
    wrong = dataclasses.replace(spec, resize_mode="squash")
    root = linked_repository(small_repository, tmp_path, wrong)
    with pytest.raises(ServerError, match="answers, but wrongly: cosine"), TritonServer(root):
        pass


class Load:
    """Pictures that take half a second, each sent again at once whatever becomes of it."""

    def __init__(self, url: str, senders: int) -> None:
        picture = encoded(Image.new("RGB", (4500, 4500)), "PNG")
        self._tensor = grpc.InferInput("image", [1, 1], "BYTES")
        self._tensor.set_data_from_numpy(np.array([[picture]], np.object_))
        self._client = grpc.InferenceServerClient(url)
        self._over = threading.Event()
        self._senders = [threading.Thread(target=self._send) for _ in range(senders)]

    def _send(self) -> None:
        while not self._over.wait(0.002):
            with suppress(grpc.InferenceServerException):  # refused
                self._client.infer("clip_image", [self._tensor])

    def __enter__(self) -> None:
        for sender in self._senders:
            sender.start()
        time.sleep(0.5)

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for sender in self._senders:
            sender.join()
        self._client.close()


@pytest.fixture(scope="module")
def small_queue(small_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A server that is right, and lets two requests wait."""
    root = linked_repository(small_repository, tmp_path_factory.mktemp("small") / "queue", max_queue_size=2)
    with TritonServer(root, ServerOptions(layout=_SMALL, supervise=False)) as server:
        yield server


@pytest.fixture
def unchecked(small_queue: TritonServer) -> TritonServer:
    small_queue.checked = False
    return small_queue


def test_a_server_that_refuses_load_is_not_taken_for_a_broken_one(
    unchecked: TritonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(defaults, "CHECK_WAITS_S", (1.0, 1.0))
    with Load(unchecked.grpc_url, senders=6):
        unchecked._check_reference()
    assert not unchecked.checked


def test_a_server_behind_its_load_is_given_time(
    unchecked: TritonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(defaults, "CHECK_WAITS_S", (0.2, 30.0))
    with Load(unchecked.grpc_url, senders=2):
        unchecked._check_reference()
    assert unchecked.checked


def test_old_connections_are_renewed_and_no_request_notices(small_repository: Path) -> None:
    arguments = ("--grpc-max-connection-age=300", "--grpc-max-connection-age-grace=5000")
    options = ServerOptions(layout=_SMALL, supervise=False, extra_arguments=arguments)
    photo, over = camera_photos(1, seed=5), threading.Event()
    used: set[int] = set()
    with TritonServer(small_repository, options) as server, ClipClient(server.grpc_url) as client:
        port = int(server.grpc_url.rpartition(":")[2])

        def look() -> None:
            while not over.wait(0.01):
                found = psutil.Process().net_connections("tcp")
                used.update(one.laddr.port for one in found if one.raddr and one.raddr.port == port)

        looking = threading.Thread(target=look, daemon=True)
        looking.start()
        wanted, end = client.embed(photo), time.monotonic() + 4
        while time.monotonic() < end:
            assert float(client.embed(photo)[0] @ wanted[0]) > 0.9999
        over.set()
        looking.join()
    assert len(used) > 2


def test_a_taken_port_is_named(server: TritonServer, small_repository: Path) -> None:
    port = int(server.grpc_url.rsplit(":", 1)[1])
    with (
        pytest.raises(ServerError, match=f"port {port} .* cannot be used"),
        TritonServer(small_repository, ServerOptions(grpc_port=port)),
    ):
        pass
