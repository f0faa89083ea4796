"""The server that a sweep measures: one that is started for each setting, or one that is already running."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from clip_client import ClipClient, ConnectionOptions
from clip_client.errors import ClipClientError, ItemError
from clip_profile.errors import ProfileError
from clip_profile.load.server import Server, embedded, running
from clip_profile.observe.server_stats import read_setting, read_version
from clip_profile.records import identity
from clip_profile.records.identity import Identity
from clip_profile.records.setting import Setting
from clip_profile.sweep.variant import make_variant
from clip_serving.errors import ConfigurationError, ServerError
from clip_serving.server.embedded import ServerOptions

_WARM_UP_S = 1.5


@dataclass(frozen=True)
class Served:
    """A warm server; `photos_per_s` is its throughput during the warm-up, a first estimate."""

    server: Server
    photos_per_s: float


class Target(Protocol):
    name: str
    identity: Identity
    restarts: bool
    """Whether a server that died is started again."""

    @property
    def running(self) -> Setting | None:
        """The server's part of the setting that it serves now."""

    def serve(self, setting: Setting) -> Served:
        """Raises ProfileError or ClipServingError."""

    def explain_death(self) -> str | None:
        """Why the server is gone; None while it lives. `serve` then starts another one."""

    def __enter__(self) -> Target: ...

    def __exit__(self, *_: object) -> None: ...


class EmbeddedTarget:
    """Starts a tritonserver for each setting's server part, on a private copy of `repository`.

    Raises ConfigurationError for a repository without an export.
    """

    name = "embedded"
    restarts = True

    def __init__(self, repository: Path, photos: Sequence[bytes]) -> None:
        self._repository, self._photos = repository, photos
        self.identity = identity.of_repository(repository)
        self.running: Setting | None = None
        self._served: Served | None = None
        self._open = ExitStack()

    def __enter__(self) -> EmbeddedTarget:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def serve(self, setting: Setting) -> Served:
        # A server that died unnoticed after its last trial must not fail this setting.
        if self._served is None or self.running != setting.server or self._served.server.death():
            self._stop()
            try:
                self._served = self._start(setting)
            except BaseException:
                self._stop()
                raise
            self.running = setting.server
        return self._served

    def explain_death(self) -> str | None:
        text = self._served.server.death() if self._served else "the server is not running"
        if text is not None:
            self._stop()
        return text

    def _start(self, setting: Setting) -> Served:
        folder = Path(self._open.enter_context(tempfile.TemporaryDirectory(prefix="clip-profile-")))
        make_variant(self._repository, folder / "variant", setting)
        options = ServerOptions(
            model_config_name=setting.model_config_name, layout=setting.layout, supervise=False
        )
        server = self._open.enter_context(embedded(folder / "variant", options))
        return warm_up(server, self._photos, max(setting.preprocess_instances, setting.encoder_instances))

    def _stop(self) -> None:
        self.running, self._served = None, None
        self._open.close()


class RemoteTarget:
    """A running server, whose configuration cannot be changed.

    Raises ProfileError if it is not ours, ServerUnavailable for a certificate that cannot be read.
    """

    restarts = False

    def __init__(
        self,
        url: str,
        photos: Sequence[bytes],
        metrics_url: str | None,
        connection: ConnectionOptions,
    ) -> None:
        self.name = url
        with ExitStack() as opened:
            server = opened.enter_context(running(url, metrics_url, connection))
            try:
                with ClipClient(url, connection=connection, deadline_s=10) as client:
                    parameters = client.info.parameters
                self.identity = identity.of_server(server.triton, parameters)
                self.setting = read_setting(server.triton)
                self.version = read_version(server.triton)
                # What it shares its machine with is unknown, so nothing is concluded from its processes.
                server = dataclasses.replace(server, pids={})
                self._served = warm_up(server, photos, self.setting.preprocess_instances)
            except (ClipClientError, ServerError) as error:
                raise ProfileError(str(error)) from error
            self._open = opened.pop_all()

    @property
    def running(self) -> Setting:
        return self.setting.server

    def __enter__(self) -> RemoteTarget:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def serve(self, setting: Setting) -> Served:
        if setting.server != self.setting.server:
            raise ConfigurationError(f"the configuration of the server at {self.name} cannot be changed")
        return self._served

    def explain_death(self) -> str | None:
        death = self._served.server.death
        return death() or death()  # it takes more than one health check in a row


def warm_up(server: Server, photos: Sequence[bytes], width: int) -> Served:
    """Gives each of `width` instances some photos before the throughput counts. Raises ServerError."""
    batch = [photos[i % len(photos)] for i in range(2 * width)]
    try:
        with ClipClient(
            server.url,
            connection=server.connection,
            concurrency=2 * width,
            images_per_request=1,
            deadline_s=60,
        ) as client:
            _require_embeddings(client.embed(batch, on_error="return"))
            begin, done = time.monotonic(), 0
            while time.monotonic() - begin < _WARM_UP_S:
                done += len(client.embed(batch, on_error="return"))
            return Served(server, done / (time.monotonic() - begin))
    except ClipClientError as error:
        raise ServerError(f"the server cannot embed the photos: {error}") from error


def _require_embeddings(outcomes: Sequence[object]) -> None:
    errors = [outcome for outcome in outcomes if isinstance(outcome, ItemError)]
    if len(errors) == len(outcomes):
        raise ServerError(f"the server embeds none of the photos: {errors[0]}")
