"""The server under test: one of our own for each setting, or somebody's that is running already."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

from tritonclient.grpc import InferenceServerClient

from clip_client import ClipClient, ConnectionOptions
from clip_client.errors import ClipClientError, ItemError
from clip_preprocess.settings import one_of
from clip_profile.errors import ProfileError
from clip_profile.load.connection import connect
from clip_profile.observe.processes import pids_by_role
from clip_profile.observe.server_stats import read_setting, read_version
from clip_profile.records import identity
from clip_profile.records.identity import Identity
from clip_profile.records.setting import Setting
from clip_profile.sweep.variant import make_variant
from clip_serving.defaults import EncoderPrecision
from clip_serving.errors import ConfigurationError, ServerError
from clip_serving.server.embedded import ServerOptions, TritonServer

_WARM_UP_S = 1.5


@dataclass(frozen=True)
class Served:
    """A server that answers. `photos_per_s` is a first guess, from warming it up.

    `pids` are its processes by role; empty where they are not on this machine.
    """

    url: str
    client: InferenceServerClient
    photos_per_s: float
    pids: dict[str, list[int]]
    metrics_url: str | None = None


class Target(Protocol):
    name: str
    identity: Identity
    restarts: bool
    """Whether a server that died can be had again."""

    @property
    def running(self) -> Setting | None:
        """What serves now (its server part), so that a setting that needs no restart can go first."""

    def serve(self, setting: Setting) -> Served:
        """The server as `setting` wants it. Raises ClipServingError."""

    def explain_death(self) -> str | None:
        """Why the server is gone, or None while it lives. After a death, `serve` starts afresh."""

    def __enter__(self) -> Target: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class EmbeddedTarget:
    """Starts a tritonserver for each setting's server part, on a private variant of `repository`.

    Raises ConfigurationError for a repository that holds no export.
    """

    name = "embedded"
    restarts = True

    def __init__(self, repository: Path, photos: Sequence[bytes]) -> None:
        self._repository = repository
        self._photos = photos
        self.identity = identity.of_repository(repository)
        self._running: Setting | None = None
        self._stack = ExitStack()
        self._server: TritonServer | None = None
        self._served: Served | None = None

    @property
    def running(self) -> Setting | None:
        return self._running

    def __enter__(self) -> EmbeddedTarget:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def serve(self, setting: Setting) -> Served:
        # One that died unseen, after its last run, would be laid to this setting's charge.
        died = self._server is not None and self._server.death() is not None
        if self._served is None or self._running != setting.server or died:
            self._end()
            try:
                self._served = self._start(setting)
            except BaseException:
                self._end()
                raise
            self._running = setting.server
        return self._served

    def explain_death(self) -> str | None:
        server = self._server
        if server is None:
            return "the server is not running"
        text = server.explain_death()
        if text is None:
            return None
        self._end()
        return text

    def _start(self, setting: Setting) -> Served:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="clip-profile-")))
        make_variant(self._repository, folder / "variant", setting)
        options = ServerOptions(
            model_config_name=setting.model_config_name,
            layout=setting.layout,
            # Named, so that a precision that cannot be served fails instead of being another.
            encoder_precision=one_of(EncoderPrecision, setting.encoder_precision) if setting.on_cpu else None,
            supervise=False,
        )
        self._server = self._stack.enter_context(TritonServer(folder / "variant", options))
        url = self._server.grpc_url
        client = self._stack.enter_context(InferenceServerClient(url))
        busiest = max(setting.preprocess_instances, setting.encoder_instances)
        rate = warm_up(url, self._photos, busiest)
        pids = pids_by_role(self._server.pid, self._server.stub_pids)
        return Served(url, client, rate, pids, self._server.metrics_url)

    def _end(self) -> None:
        self._running, self._served, self._server = None, None, None
        stack, self._stack = self._stack, ExitStack()
        stack.close()


class RemoteTarget:
    """A running server, whose own setting cannot be changed.

    Raises ProfileError if it is not ours, ServerUnavailable for a certificate that cannot be read.
    """

    restarts = False

    def __init__(
        self,
        url: str,
        photos: Sequence[bytes],
        metrics_url: str | None = None,
        connection: ConnectionOptions | None = None,
    ) -> None:
        self.name = url
        self._client = connect(url, connection or ConnectionOptions())
        try:
            with ClipClient(url, connection=connection, deadline_s=10) as client:
                told = client.info.parameters
            self.identity = identity.of_server(self._client, told)
            self.setting = read_setting(self._client)
            self.version = read_version(self._client)
            rate = warm_up(url, photos, self.setting.preprocess_instances, connection)
        except (ClipClientError, ServerError) as error:
            self._client.close()
            raise ProfileError(str(error)) from error
        self._served = Served(url, self._client, rate, {}, metrics_url)

    @property
    def running(self) -> Setting | None:
        return self.setting.server

    def __enter__(self) -> RemoteTarget:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def serve(self, setting: Setting) -> Served:
        if setting.server != self.setting.server:
            raise ConfigurationError(f"the server at {self.name} keeps its own configuration")
        return self._served

    def explain_death(self) -> str | None:
        try:
            alive = self._client.is_server_live(client_timeout=5)
        except Exception:  # whatever gRPC makes of a connection that is refused
            alive = False
        return None if alive else f"the server at {self.name} answers no more"


def warm_up(
    url: str, photos: Sequence[bytes], width: int, connection: ConnectionOptions | None = None
) -> float:
    """Photos a second in a first short while, after every instance had some to do. Raises ServerError."""
    ask = [photos[i % len(photos)] for i in range(2 * width)]
    try:
        with ClipClient(
            url, connection=connection, concurrency=2 * width, images_per_request=1, deadline_s=60
        ) as client:
            _refuse_errors(client.embed(ask, on_error="return"))
            begin, done = time.monotonic(), 0
            while time.monotonic() - begin < _WARM_UP_S:
                done += len(client.embed(ask, on_error="return"))
            return done / (time.monotonic() - begin)
    except ClipClientError as error:
        raise ServerError(f"the server does not embed the photos: {error}") from error


def _refuse_errors(outcomes: Sequence[object]) -> None:
    errors = [outcome for outcome in outcomes if isinstance(outcome, ItemError)]
    if len(errors) == len(outcomes):
        raise ServerError(f"the server embeds none of the photos: {errors[0]}")
