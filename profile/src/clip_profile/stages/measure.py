"""One measurement of the stages: warms up, generates load, and observes."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import psutil

from clip_client import ClipClient, ObjectInfo, Source
from clip_client import defaults as client_defaults
from clip_client.errors import ClipClientError
from clip_client.terminal import counted
from clip_client.timings import ServerTimes, Timings
from clip_profile.console import Console, duration
from clip_profile.errors import ProfileError
from clip_profile.load.server import Server
from clip_profile.observe.observer import Observer, every
from clip_profile.observe.server_stats import Statistics
from clip_profile.observe.usage import Resources
from clip_profile.records.measurement import EMBED
from clip_profile.stages.requests import Answered, Requests, Rotation
from clip_profile.stages.traces import RequestTrace, Traces
from clip_serving.errors import ClipServingError, ServerError

INTERRUPTED = "stopped by Ctrl-C"
_HEALTH_CHECK_S = 0.5
_DRAIN_S = 5.0
"""For the requests in flight of a client that was closed."""


@dataclass(frozen=True)
class Plan:
    """`count` photos if given, else `seconds` are measured, after a warm-up of at least `warm_up_s`."""

    concurrency: int
    images_per_request: int
    seconds: float
    count: int | None
    warm_up_s: float
    decode: str | list[str] = client_defaults.DECODE
    """As for ClipClient."""

    @property
    def on_server(self) -> bool:
        return self.decode == client_defaults.DECODE


@dataclass(frozen=True)
class Measured:
    """The data of one load. `ended` is "" if it ran to its end, else the reason why it did not."""

    ended: str
    seconds: float
    warm_up_s: float
    answered: list[Answered]
    failed: Rotation
    traces: dict[str, RequestTrace]
    no_traces: str | None
    statistics: Statistics = field(default_factory=dict)
    resources: Resources = field(default_factory=Resources)
    server: dict[str, ServerTimes] = field(default_factory=dict)
    """Of the models that photos pass, wherever they are, the encoder's last; empty if unknown."""

    @property
    def photos(self) -> int:
        return sum(sum(one.embedded) for one in self.answered)


class Measuring:
    """Loads `server` with photos of `source`. Raises ClipClientError for a server that is not ours."""

    def __init__(
        self, server: Server, source: Source, items: Sequence[ObjectInfo], plan: Plan, console: Console
    ) -> None:
        self._server, self._plan, self._console = server, plan, console
        self._client = ClipClient(
            server.url, concurrency=plan.concurrency, connection=server.connection, decode=plan.decode
        )
        try:
            self.info = self._client.wait(client_defaults.WAIT_FOR_SERVER_S)
            most = self.info.max_batch_size
            if plan.images_per_request > most:
                raise ProfileError(
                    f"the server takes at most {most} photos per request, not {plan.images_per_request}"
                )
        except BaseException:
            self._client.close()
            raise
        images = plan.images_per_request
        self._requests = Requests(self._client, source, Rotation(items), plan.concurrency, images)
        self._loop = self._requests.loop
        self._timings = Timings()

    def run(self) -> Measured:
        """Returns the measurements so far if anything, such as Ctrl-C, ends it early."""
        begin, ended = time.monotonic(), ""
        from_s = to_s = begin
        observer: Observer | None = None
        traces = Traces(self._server.triton, self.info.name, local=self._server.local)
        if not self._plan.on_server:
            traces.why_not = "photos are not decoded by the server that traces"
        with traces:
            try:
                self._loop.start()
                with every(_HEALTH_CHECK_S, self._check_health):
                    self._loop.warm_up(self._plan.warm_up_s, partial(self._report, "warming up"))
                    if not self._loop.error:
                        observer = self._observer()
                        from_s, to_s, ended = self._press(observer)
            except KeyboardInterrupt:
                ended = INTERRUPTED
            finally:
                ended = ended or _explain(self._loop.error)
                self._end_load(0.0 if ended else client_defaults.DEADLINE_S)
        answered = self._requests.answered(from_s, to_s) if observer else []
        found = traces.read([one.request_id for one in answered], self.info.steps)
        measured = Measured(
            ended, to_s - from_s, from_s - begin, answered, self._requests.rotation, found, traces.why_not
        )
        if observer is None:  # the load ended during the warm-up
            return measured
        resources = observer.resources(measured.photos, to_s - from_s, local=self._server.local)
        statistics = observer.statistics
        if not self._plan.on_server:
            statistics = {EMBED: statistics[EMBED]} if EMBED in statistics else {}
        return dataclasses.replace(
            measured, statistics=statistics, resources=resources, server=self._timings.server
        )

    def _observer(self) -> Observer:
        # A process that has just died must not prevent the others' figures.
        pids = {role: list(filter(psutil.pid_exists, pids)) for role, pids in self._server.pids.items()}
        observer = Observer(self._server.triton, pids, self._server.metrics_url)
        observer.client(os.getpid())
        return observer

    def _press(self, observer: Observer) -> tuple[float, float, str]:
        """Start and end of the time measured, and why it ended early, or ""."""
        with self._client.timed() as self._timings, observer:
            begin, photos = time.monotonic(), self._loop.photos

            def left() -> float:
                seconds = time.monotonic() - begin
                if self._plan.count is None:
                    return self._plan.seconds - seconds
                done = self._loop.photos - photos
                return (self._plan.count - done) * seconds / done if done else 1.0

            try:
                self._loop.wait(left, partial(self._report, "measuring"))
            except KeyboardInterrupt:
                return begin, time.monotonic(), INTERRUPTED
            return begin, time.monotonic(), ""

    def _report(self, what: str, left_s: float) -> None:
        failed = len(self._requests.rotation.failed)
        self._console.doing(
            f"{what}: {counted(self._loop.photos, 'photo')}{f', {failed} failed' if failed else ''}; "
            f"{duration(left_s)} left"
        )

    def _end_load(self, patience_s: float) -> None:
        with suppress(KeyboardInterrupt):  # what was measured is complete by now
            self._loop.stop(patience_s)
        self._client.close()
        self._loop.stop(_DRAIN_S)

    def _check_health(self) -> None:
        """Requests in flight to a server that is gone would otherwise run into their deadlines."""
        if text := self._server.death():
            self._loop.fail(ServerError(text))


def _explain(error: Exception | None) -> str:
    if error is None:
        return ""
    expected = isinstance(error, ClipClientError | ClipServingError | ProfileError)
    return str(error) if expected else f"{type(error).__name__}: {error}"
