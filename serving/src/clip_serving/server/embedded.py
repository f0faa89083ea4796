"""The embedded tritonserver: started on loopback, supervised, and stopped with its owner.

with TritonServer(Path("model_repository")) as server:
    embed(server.grpc_url)
"""

from __future__ import annotations

import logging
import secrets
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil

from clip_preprocess import Quality
from clip_serving import defaults
from clip_serving.defaults import EncoderPrecision, Tier
from clip_serving.errors import ServerError
from clip_serving.repository.deployment import Deployment
from clip_serving.repository.stage import Fit, InstanceLayout, available_cores, refuse_other_backends, stage
from clip_serving.server import log as server_log
from clip_serving.server import ports, readiness, runtime, shared_memory
from clip_serving.server.arguments import admin_headers, server_arguments
from clip_serving.server.child_process import child_command
from clip_serving.server.processes import alive, describe_exit, group_of, stubs_of
from clip_serving.server.supervisor import Supervisor

_logger = logging.getLogger(__name__)
_HOST = "127.0.0.1"


@dataclass(frozen=True)
class ServerOptions:
    """How to start the server.

    A port of 0 picks a free one. A `layout` of None fits the machine's cores. If `quality` or
    `encoder_precision` (of a CPU encoder) is None, the repository's value applies. Of a `tier`, only its part
    of the repository is served.
    """

    grpc_port: int = 0
    http_port: int = 0
    metrics_port: int = 0
    model_config_name: str = "cpu"
    layout: InstanceLayout | None = None
    quality: Quality | None = None
    encoder_precision: EncoderPrecision | None = None
    tier: Tier | None = None
    supervise: bool = True
    check_reference: bool = True
    ready_timeout_s: float = defaults.READY_TIMEOUT_S
    extra_arguments: tuple[str, ...] = ()
    on_progress: Callable[[float], None] | None = None
    """Called about ten times a second while the server loads, with the seconds since its start."""
    log: Path | None = None
    """The file that tritonserver's log is appended to. If None, the log is deleted when the server stops."""


class TritonServer:
    """A running tritonserver as a context manager: ready, and checked, when the block begins.

    Raises ServerError if it does not start, is not ready in time, or embeds the reference picture
    incorrectly; a server that is too busy for that picture is accepted (see `checked`). Raises
    ConfigurationError if the repository cannot work.
    """

    def __init__(self, repository: Path, options: ServerOptions | None = None) -> None:
        self._repository = repository
        self._options = options or ServerOptions()
        self.layout = self._options.layout or InstanceLayout.for_cores(available_cores())
        self.encoder: str | None = None
        """The CPU encoder's description: precision, engine, threads, and why; None on a GPU."""
        self.checked = False
        """Whether each model embedded its reference picture correctly; False if one was too busy for it."""
        self._process: subprocess.Popen[bytes] | None = None
        self._stubs: list[psutil.Process] = []
        self._admin_key = secrets.token_hex(16)
        self._shm_prefix = shared_memory.new_prefix()
        self._stopping = threading.Event()
        self._supervisor = Supervisor(
            death=self.death, kill=lambda: self._end(grace_s=0), start=self._start, stopping=self._stopping
        )

    @property
    def tier(self) -> Tier | None:
        """The part of the repository that it serves; None for all."""
        return self._options.tier

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
    def admin_headers(self) -> dict[str, str]:
        """The gRPC header for the protocols of tracing, logging and shared memory, which are restricted."""
        return admin_headers(self._command())

    @property
    def pid(self) -> int:
        """Of the current tritonserver; a restart changes it."""
        if self._process is None:
            raise ServerError("the server is not running")
        return self._process.pid

    @property
    def stub_pids(self) -> list[int]:
        """The Python backend's processes, one per instance."""
        return [stub.pid for stub in self._stubs]

    @property
    def restarts(self) -> int:
        """How often it has died and become ready again."""
        return self._supervisor.restarts

    @property
    def log_path(self) -> Path:
        """tritonserver's log of all runs."""
        return self._options.log or self._folder / "tritonserver.log"

    def __enter__(self) -> TritonServer:
        self._runtime = runtime.prepare()
        shared_memory.remove_abandoned()
        self._temporary = tempfile.TemporaryDirectory(prefix="clip-serve-")
        self._folder = Path(self._temporary.name)
        try:
            self._stage()
            self._start_first()
        except BaseException:
            self.stop()
            raise
        if self._options.supervise:
            self._supervisor.begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stops the server; requests in flight finish first. It is safe to call this twice."""
        self._stopping.set()
        self._supervisor.join()
        self._end(grace_s=defaults.EXIT_TIMEOUT_S + 5.0)
        self._temporary.cleanup()

    def death(self) -> str | None:
        """Why the server is dead: it ended, or a process of one of its models did. None if it is alive."""
        if self._process is None:
            return "the server is not running"
        status = self._process.poll()
        if status is not None:
            return f"tritonserver ended ({describe_exit(status)})"
        dead = [stub for stub in self._stubs if not alive(stub)]
        return f"a Python-backend stub (pid {dead[0].pid}) died" if dead else None

    def explain_death(self) -> str | None:
        """Like death(), with the cause from the log unless a signal ended the server."""
        text = self.death()
        if text is None or "exit status" not in text:
            return text
        return f"{text}: {server_log.explain(self.log_path)}"

    # --- one run of tritonserver -------------------------------------------------------------

    def _stage(self) -> None:
        staged = self._folder / "model_repository"
        staged.mkdir()
        fit = Fit(self.layout, self._options.quality, self._options.encoder_precision)
        stage(self._repository, staged, fit, self._options.tier)
        self._models = [family.ensemble for family in Deployment.load(staged).image_families]
        backends = [entry.name for entry in self._runtime.backends.iterdir()]
        refuse_other_backends(self._repository, self._options.model_config_name, backends, self._options.tier)

    def _start_first(self) -> None:
        """The first start. Triton 24.10 sometimes crashes in it, in its own lock, if the machine is busy. And
        another process may take a free port before Triton listens on it, which takes a second or more."""
        wanted = (self._options.grpc_port, self._options.http_port, self._options.metrics_port)
        for tries_left in reversed(range(defaults.START_TRIES)):
            self._ports = ports.reserve(_HOST, wanted)
            try:
                return self._start()
            except ServerError as error:
                log = self.log_path
                if not tries_left or not (server_log.crashed(log) or server_log.taken_port(log)):
                    raise
                _logger.warning("%s. Starting it again", error)
                self._end(grace_s=0.0)

    def _start(self) -> None:
        with server_log.begin_run(self.log_path) as log:
            self._process = process = subprocess.Popen(
                child_command(self._command()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._runtime.environment(),
                # Only this process handles Ctrl-C in the terminal, and ends the whole group at once.
                start_new_session=True,
            )
        self.checked = False
        readiness.wait_until_ready(
            self.http_url,
            ended=lambda: process.poll() is not None,
            explain=lambda: server_log.explain(self.log_path),
            stopping=self._stopping,
            timeout_s=self._options.ready_timeout_s,
            on_progress=self._options.on_progress,
        )
        self._stubs = stubs_of(process.pid)
        if taken := server_log.taken_port(self.log_path):  # without its metrics, Triton goes on
            raise ServerError(taken)
        self.encoder = server_log.announced(self.log_path)
        if self._options.check_reference:
            self.checked = all(
                readiness.check_reference(
                    self.grpc_url, model=model, running=self._is_running, tier=self._options.tier
                )
                for model in self._models
            )

    def _command(self) -> list[str]:
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
            admin_key=None if _restricts(self._options.extra_arguments) else self._admin_key,
            shm_prefix=self._shm_prefix,
        )
        # Tracing is off until a client switches it on, but tritonserver reads the file name only at startup.
        traces = f"--trace-config=triton,file={self._folder / 'traces.json'}"
        return [str(self._runtime.tritonserver), *arguments, traces, *self._options.extra_arguments]

    def _is_running(self) -> bool:
        return not self._stopping.is_set() and self.death() is None

    def _end(self, grace_s: float) -> None:
        process, self._process, self._stubs = self._process, None, []
        if process is None:
            return
        if grace_s > 0 and process.poll() is None:
            process.terminate()
            try:
                process.wait(grace_s)
            except subprocess.TimeoutExpired:
                _logger.warning("tritonserver did not stop within %.0f s: killing it", grace_s)
        leftovers = group_of(process.pid)
        for member in leftovers:
            with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
                member.kill()
        psutil.wait_procs(leftovers, timeout=5)
        process.wait()
        shared_memory.remove(self._shm_prefix)


def _restricts(arguments: Sequence[str]) -> bool:
    """Whether they restrict protocols: tritonserver accepts each protocol in one restriction only."""
    return any(word.startswith("--grpc-restricted-protocol") for word in arguments)
