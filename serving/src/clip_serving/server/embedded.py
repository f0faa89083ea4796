"""The embedded tritonserver: started on loopback, watched, restarted, and ended with its owner.

with TritonServer(Path("model_repository")) as server:
    embed(server.grpc_url)
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import psutil

from clip_preprocess.settings import Quality
from clip_serving import defaults
from clip_serving.defaults import EncoderPrecision
from clip_serving.errors import ServerError
from clip_serving.repository.stage import Fit, InstanceLayout, available_cores, refuse_other_backends, stage
from clip_serving.server import log as server_log
from clip_serving.server import runtime
from clip_serving.server.arguments import server_arguments
from clip_serving.server.processes import alive, describe_exit, group_of, stubs_of

if TYPE_CHECKING:
    from clip_client.check import CheckResult

_logger = logging.getLogger(__name__)
_HOST = "127.0.0.1"
_POLL_S = 0.1


@dataclass(frozen=True)
class ServerOptions:
    """How to start the server. Port 0 takes a free one; `layout` None is chosen from the cores.

    `quality` and `encoder_precision` (a CPU encoder's) None leave the repository's.
    """

    grpc_port: int = 0
    http_port: int = 0
    metrics_port: int = 0
    model_config_name: str = "cpu"
    layout: InstanceLayout | None = None
    quality: Quality | None = None
    encoder_precision: EncoderPrecision | None = None
    supervise: bool = True
    check_reference: bool = True
    ready_timeout_s: float = defaults.READY_TIMEOUT_S
    extra_arguments: tuple[str, ...] = ()
    on_progress: Callable[[float], None] | None = None
    """Called about ten times a second while the server loads, with the seconds since its start."""
    log: Path | None = None
    """Where tritonserver's log is added to; None keeps it in a temporary folder until the end."""


class TritonServer:
    """A running tritonserver, as a context manager; ready, and right, when the block begins.

    Raises ServerError when it does not start, does not become ready in time, or embeds the model's
    reference picture wrongly (one that refuses load is let be: see `checked`); ConfigurationError when the
    repository cannot work.
    """

    def __init__(self, repository: Path, options: ServerOptions | None = None) -> None:
        self._repository = repository
        self._options = options or ServerOptions()
        self.layout = self._options.layout or InstanceLayout.for_cores(available_cores())
        self.encoder: str | None = None
        """What the CPU encoder said of itself: precision, engine, threads, and why; None on a GPU."""
        self.checked = False
        """Whether it embedded the reference picture rightly; not where it refused load instead."""
        self.restarts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._stubs: list[psutil.Process] = []
        self._stopping = threading.Event()
        self._watcher: threading.Thread | None = None

    @property
    def grpc_url(self) -> str:
        return f"{_HOST}:{self._ports[0]}"

    @property
    def http_url(self) -> str:
        return f"http://{_HOST}:{self._ports[1]}"

    @property
    def metrics_url(self) -> str:
        return f"http://{_HOST}:{self._ports[2]}/metrics"

    @property
    def pid(self) -> int:
        """The current tritonserver's; another one after a restart."""
        if self._process is None:
            raise ServerError("the server is not running")
        return self._process.pid

    @property
    def stub_pids(self) -> list[int]:
        """The Python backend's processes, one an instance."""
        return [stub.pid for stub in self._stubs]

    @property
    def log_path(self) -> Path:
        """tritonserver's, with all its runs; gone at the end unless the options name it."""
        return self._options.log or self._folder / "tritonserver.log"

    def __enter__(self) -> TritonServer:
        self._runtime = runtime.prepare()
        self._temporary = tempfile.TemporaryDirectory(prefix="clip-serve-")
        self._folder = Path(self._temporary.name)
        try:
            staged = self._folder / "model_repository"
            staged.mkdir()
            stage(
                self._repository,
                staged,
                Fit(self.layout, self._options.quality, self._options.encoder_precision),
            )
            backends = [entry.name for entry in self._runtime.backends.iterdir()]
            refuse_other_backends(self._repository, self._options.model_config_name, backends)
            self._ports = _ports(self._options)
            self._start()
        except BaseException:
            self.stop()
            raise
        if self._options.supervise:
            self._watcher = threading.Thread(target=self._watch, name="clip-serve-watch", daemon=True)
            self._watcher.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends the server: the requests in flight are finished first. Safe to call twice."""
        self._stopping.set()
        if self._watcher is not None and self._watcher is not threading.current_thread():
            self._watcher.join()
        self._end(grace_s=defaults.EXIT_TIMEOUT_S + 5.0)
        self._temporary.cleanup()

    # --- one run of tritonserver -------------------------------------------------------------

    def _start(self) -> None:
        grpc_port, http_port, metrics_port = self._ports
        arguments = server_arguments(
            repository=str(self._folder / "model_repository"),
            host=_HOST,
            grpc_port=grpc_port,
            http_port=http_port,
            metrics_port=metrics_port,
            model_config_name=self._options.model_config_name,
            backend_directory=str(self._runtime.backends),
            cache_directory=str(self._runtime.caches),
        )
        # Off until somebody asks for it; but where to, tritonserver only takes at its start.
        traces = f"--trace-config=triton,file={self._folder / 'traces.json'}"
        program = [str(self._runtime.tritonserver), *arguments, traces, *self._options.extra_arguments]
        with server_log.begin_run(self.log_path) as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "clip_serving.server.child", str(os.getpid()), *program],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._runtime.environment(),
                # A terminal's Ctrl-C is ours to handle; and the group is ended as one.
                start_new_session=True,
            )
        self.checked = False
        self._wait_until_ready()
        self._stubs = stubs_of(self._process.pid)
        self.encoder = server_log.announced(self.log_path)
        if self._options.check_reference:
            self._check_reference()

    def _wait_until_ready(self) -> None:
        begin = time.monotonic()
        while not self._answers_ready():
            elapsed = time.monotonic() - begin
            if self._options.on_progress:
                self._options.on_progress(elapsed)
            if self._process is None or self._process.poll() is not None:
                raise ServerError(server_log.explain(self.log_path))
            if elapsed > self._options.ready_timeout_s:
                raise ServerError(
                    f"tritonserver was not ready within {self._options.ready_timeout_s:.0f} s. "
                    + server_log.explain(self.log_path)
                )
            if self._stopping.wait(_POLL_S):
                raise ServerError("stopped while the server was starting")

    def _answers_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.http_url}/v2/health/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _check_reference(self) -> None:
        from clip_client.errors import ClipClientError, ServerBusy

        try:
            result = self._checked_patiently()
        except ServerBusy as error:  # it lives, and to start it anew would help nobody
            _logger.warning("the server was not checked, as it refuses load: %s", error)
            return
        except ClipClientError as error:
            raise ServerError(f"the server was ready and then did not embed: {error}") from error
        if not result.ok:
            raise ServerError(f"the server answers, but wrongly: {result.message}")
        self.checked = True

    def _checked_patiently(self) -> CheckResult:
        """Asks again where there was no answer: behind load the picture waits in line like any other."""
        from clip_client.check import check
        from clip_client.errors import ServerBusy, ServerUnavailable

        *first, last = defaults.CHECK_WAITS_S
        for wait_s in first:
            try:
                return check(self.grpc_url, wait_s=wait_s)
            except ServerBusy:
                raise
            except ServerUnavailable:
                if self._stopping.is_set() or self.death():
                    raise
        return check(self.grpc_url, wait_s=last)

    def _end(self, grace_s: float) -> None:
        process, self._process, self._stubs = self._process, None, []
        if process is None:
            return
        if grace_s > 0 and process.poll() is None:
            process.terminate()
            try:
                process.wait(grace_s)
            except subprocess.TimeoutExpired:
                _logger.warning("tritonserver did not end within %.0f s: killing it", grace_s)
        leftovers = group_of(process.pid)
        for member in leftovers:
            with suppress(psutil.NoSuchProcess):  # it may end by itself meanwhile
                member.kill()
        psutil.wait_procs(leftovers, timeout=5)
        process.wait()

    # --- supervision -------------------------------------------------------------------------

    def _watch(self) -> None:
        failures, started = 0, time.monotonic()
        while not self._stopping.wait(_POLL_S):
            reason = self.death()
            if reason is None:
                continue
            if time.monotonic() - started > defaults.STABLE_AFTER_S:
                failures = 0
            wait = defaults.RESTART_BACKOFF_S[min(failures, len(defaults.RESTART_BACKOFF_S) - 1)]
            _logger.warning("%s: restarting the server%s", reason, f" in {wait:.0f} s" * bool(wait))
            # At once: what is in flight on a server without its stub would wait for nothing.
            self._end(grace_s=0)
            if self._stopping.wait(wait):
                return
            failures += 1
            started = time.monotonic()
            try:
                self._start()
            except Exception as error:  # whatever it was, the next try may work
                if not self._stopping.is_set():
                    _logger.error("restart failed: %s", error, exc_info=not isinstance(error, ServerError))
                    self._end(grace_s=0)
                continue
            self.restarts += 1
            _logger.warning("the server answers again after %.1f s", time.monotonic() - started)

    def death(self) -> str | None:
        """What became of the server, or of a model's process; None while all live."""
        if self._process is None:
            return "the server is not running"
        status = self._process.poll()
        if status is not None:
            return f"tritonserver ended ({describe_exit(status)})"
        dead = [stub for stub in self._stubs if not alive(stub)]
        return f"a Python-backend stub (pid {dead[0].pid}) died" if dead else None

    def explain_death(self) -> str | None:
        """As death(), with the log's words where a server ended by itself: a signal's victim has none."""
        text = self.death()
        if text is None or "exit status" not in text:
            return text
        return f"{text}: {server_log.explain(self.log_path)}"


def _ports(options: ServerOptions) -> tuple[int, int, int]:
    """Free ports for those that are 0; all are held at once so that no two are the same."""
    wanted = (options.grpc_port, options.http_port, options.metrics_port)
    sockets, ports = [], []
    try:
        for port in wanted:
            probe = socket.socket()
            sockets.append(probe)
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((_HOST, port))
            except OSError as error:
                raise ServerError(
                    f"port {port} on {_HOST} cannot be used ({error.strerror}): is another server "
                    "running? Choose other ports, or 0 for a free one."
                ) from error
            ports.append(probe.getsockname()[1])
    finally:
        for probe in sockets:
            probe.close()
    return ports[0], ports[1], ports[2]
