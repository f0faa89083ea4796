"""One measurement of the stages: warm up, press, watch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tritonclient.utils import InferenceServerException

from clip_client import ClipClient
from clip_client import defaults as client_defaults
from clip_client.sources.gcs import ObjectInfo, Source
from clip_client.timings import ServerTimes
from clip_profile.console import Console, duration
from clip_profile.errors import ProfileError
from clip_profile.observe.server_stats import Counts, read_counts
from clip_profile.stages.loop import Answered, ClosedLoop, Rotation
from clip_profile.stages.resources import Meter
from clip_profile.stages.server import Server
from clip_profile.stages.traces import RequestTrace, Traces
from clip_serving.errors import ServerError

INTERRUPTED = "stopped by Ctrl-C"
_LOOK_S = 0.05
_ASK_S = 0.5
"""How often the server is asked whether it lives."""
_SHOW_S = 0.5


@dataclass(frozen=True)
class Plan:
    """`count` photos, where it is given, else `seconds` are measured, after `warm_up_s` at least."""

    concurrency: int
    images_per_request: int
    seconds: float
    count: int | None
    warm_up_s: float


@dataclass(frozen=True)
class Statistics:
    """Triton's own: by composing model in their order, and counts by stage. Empty where it does not tell."""

    times: dict[str, ServerTimes]
    counts: dict[str, Counts]

    @classmethod
    def of(cls, server: Server, steps: Sequence[str]) -> Statistics:
        try:
            answer = server.triton.get_inference_statistics(client_timeout=10)
            told = {each.name: ServerTimes.of(each) for each in answer.model_stats if each.name in steps}
            if len(told) < len(steps):
                return cls({}, {})
            return cls({step: told[step] for step in steps}, read_counts(server.triton))
        except (InferenceServerException, ServerError):
            return cls({}, {})

    def since(self, before: Statistics) -> Statistics:
        """Empty, too, where the server started anew in between."""
        if not self.times or not before.times:
            return Statistics({}, {})
        times = {name: one.since(before.times[name]) for name, one in self.times.items()}
        if any(one.requests < 0 for one in times.values()):
            return Statistics({}, {})
        return Statistics(times, {name: one.since(before.counts[name]) for name, one in self.counts.items()})


@dataclass(frozen=True)
class Measured:
    """What was seen of one load. `ended` is "" for one that ran its time, else why it did not.

    `meter` is None where nothing was measured, for the load ended before it was warm.
    """

    ended: str
    seconds: float
    warm_up_s: float
    answered: list[Answered]
    failed: Rotation
    statistics: Statistics
    traces: dict[str, RequestTrace]
    no_traces: str | None
    meter: Meter | None


class Measuring:
    """Presses `server` with photos of `source`. Raises ClipClientError for a server that is not ours."""

    def __init__(
        self, server: Server, source: Source, items: Sequence[ObjectInfo], plan: Plan, console: Console
    ) -> None:
        self._server, self._plan, self._console = server, plan, console
        client = ClipClient(server.url, concurrency=plan.concurrency, connection=server.connection)
        try:
            self.info = client.wait(client_defaults.WAIT_FOR_SERVER_S)
            _fits(plan.images_per_request, self.info.max_batch_size)
        except BaseException:
            client.close()
            raise
        self._rotation = Rotation(items)
        self._loop = ClosedLoop(client, source, self._rotation, plan.concurrency, plan.images_per_request)
        self._over = threading.Event()

    def run(self) -> Measured:
        """Whatever ends it early, Ctrl-C too, what was measured until then is returned."""
        begin = time.monotonic()
        ended, window = "", None
        guard = threading.Thread(target=self._guard, name="clip-stages-guard", daemon=True)
        with Traces(self._server.triton, self.info.name, local=self._server.local) as traces:
            try:
                self._loop.start()
                guard.start()
                ended = self._warm_up(begin)
                if not ended:
                    window = self._press()
                    ended = window.ended
            except KeyboardInterrupt:
                ended = INTERRUPTED
            finally:
                self._over.set()
                self._end_load(0.0 if ended else client_defaults.DEADLINE_S)
        if window is None:
            return Measured(ended, 0.0, 0.0, [], self._rotation, Statistics({}, {}), {}, traces.why_not, None)
        answered = self._loop.answered(window.begin, window.end)
        found = traces.read([one.request_id for one in answered], self.info.steps)
        return Measured(
            ended, window.end - window.begin, window.begin - begin, answered, self._rotation,
            window.statistics, found, traces.why_not, window.meter,
        )  # fmt: skip

    def _warm_up(self, begin: float) -> str:
        """Until every request in flight came round once, so that no process and no connection is new."""

        def left() -> float:
            waited = time.monotonic() - begin
            return max(0.0 if self._loop.came_round else _SHOW_S, self._plan.warm_up_s - waited)

        return self._until(left, "warming up")

    def _press(self) -> _Window:
        before = Statistics.of(self._server, self.info.steps)
        photos = self._loop.photos
        with Meter(self._server) as meter:
            begin = time.monotonic()

            def left() -> float:
                seconds = time.monotonic() - begin
                if self._plan.count is None:
                    return self._plan.seconds - seconds
                done = self._loop.photos - photos
                return (self._plan.count - done) * seconds / done if done else 1.0

            try:
                ended = self._until(left, "measuring")
            except KeyboardInterrupt:
                ended = INTERRUPTED
            end = time.monotonic()
        after = Statistics.of(self._server, self.info.steps)
        return _Window(begin, end, ended, after.since(before), meter)

    def _until(self, left: Callable[[], float], what: str) -> str:
        """Waits until no seconds are `left`; returns why the load ended before, or ""."""
        shown = 0.0
        while self._loop.end is None:
            remaining = left()
            if remaining <= 0:
                return ""
            if time.monotonic() - shown > _SHOW_S:
                shown = time.monotonic()
                failed = len(self._rotation.failed)
                self._console.doing(
                    f"{what}: {self._loop.photos} photos{f', {failed} failed' if failed else ''}; "
                    f"{duration(remaining)} left"
                )
            time.sleep(min(_LOOK_S, remaining))
        return self._loop.end

    def _end_load(self, patience_s: float) -> None:
        try:
            self._loop.stop(patience_s)
        except KeyboardInterrupt:  # what was measured is whole by now
            self._loop.stop(0.0)

    def _guard(self) -> None:
        """A server that is gone would only let the requests in flight time out."""
        while not self._over.wait(_ASK_S):
            text = self._server.death()
            if text is not None:
                self._loop.give_up(text)
                return


@dataclass(frozen=True)
class _Window:
    begin: float
    end: float
    ended: str
    statistics: Statistics
    meter: Meter


def _fits(images: int, most: int) -> None:
    if images > most:
        raise ProfileError(f"the server takes at most {most} photos a request, not {images}")
