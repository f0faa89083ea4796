"""The time of each stage: load, transport, queue, decode, preprocess, embed.

The times have three origins. Load and the whole request are measured by this client. Decode and preprocess
come with each photo's answer. Queue and embed are means from Triton's statistics over the measured period,
because Triton reports no times of single requests; they include other clients' requests. Transport is what
remains of the request.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import InferResult

from clip_client.errors import ItemError
from clip_client.requests.wire import ModelInfo
from clip_client.results import Embedding, PhotoResult

STAGES = ("load", "transport", "queue", "decode", "preprocess", "embed")


@dataclass(frozen=True)
class Stage:
    """Seconds per photo (load, decode, preprocess) or per request (transport, queue, embed).

    If only the mean is known, `min_s` and `max_s` are None; if nothing is, `mean_s` is None too.
    """

    name: str
    count: int
    mean_s: float | None
    min_s: float | None = None
    max_s: float | None = None

    @classmethod
    def of(cls, name: str, seconds: Sequence[float]) -> Stage:
        """From one value per photo."""
        if not seconds:
            return cls(name, 0, None)
        return cls(name, len(seconds), float(np.mean(seconds)), min(seconds), max(seconds))


@dataclass(frozen=True)
class TimedAnswer:
    """One request's results, one per photo, and the seconds until its answer, including all tries.

    `photo_s` is float64 [N,2], the decode and preprocess seconds of each photo; None if the server does not
    measure them, or rejected the request. `waited_s` is the part of `seconds` before the last try: waiting
    for a slot, failed tries, and backoff.
    """

    results: list[PhotoResult]
    seconds: float
    photo_s: npt.NDArray[np.float64] | None = None
    waited_s: float = 0.0

    @property
    def outcomes(self) -> list[Embedding | ItemError]:
        """Each photo's embedding or error."""
        return [result.outcome for result in self.results]

    @classmethod
    def of(
        cls, info: ModelInfo, answer: InferResult, count: int, seconds: float, waited_s: float = 0.0
    ) -> TimedAnswer:
        """From the answer to a message of ModelInfo.request_bytes() with `count` photos."""
        photo_s = answer.as_numpy(info.seconds_output) if info.seconds_output else None
        own_s = None if photo_s is None else photo_s[:count]
        return cls(info.read_answer(answer)[:count], seconds, own_s, waited_s)


@dataclass
class ServerTimes:
    """One model's cumulative statistics: requests, and nanoseconds in its queue and in its computation."""

    requests: int = 0
    queue_ns: int = 0
    compute_ns: int = 0

    @classmethod
    def of(cls, statistics: Any) -> ServerTimes:
        """From Triton's ModelStatistics message."""
        found = statistics.inference_stats
        compute = found.compute_input.ns + found.compute_infer.ns + found.compute_output.ns
        return cls(found.success.count, found.queue.ns, compute)

    def __add__(self, other: ServerTimes) -> ServerTimes:
        return ServerTimes(
            self.requests + other.requests,
            self.queue_ns + other.queue_ns,
            self.compute_ns + other.compute_ns,
        )

    def since(self, before: ServerTimes) -> ServerTimes:
        return ServerTimes(
            self.requests - before.requests,
            self.queue_ns - before.queue_ns,
            self.compute_ns - before.compute_ns,
        )

    def mean_s(self, nanoseconds: int) -> float:
        return nanoseconds / self.requests / 1e9 if self.requests else 0.0


def server_times(answers: Iterable[Any]) -> dict[str, ServerTimes]:
    """By model, from the ModelStatisticsResponse messages of one or more servers, which are added up."""
    times: dict[str, ServerTimes] = {}
    for each in (each for answer in answers for each in answer.model_stats if each.name):
        times[each.name] = times.get(each.name, ServerTimes()) + ServerTimes.of(each)
    return times


@dataclass
class Timings:
    """The times of what a client does in a timed() block; `stages()` is complete after the block."""

    load_s: list[float] = field(default_factory=list)
    decode_s: list[float] = field(default_factory=list)
    preprocess_s: list[float] = field(default_factory=list)
    request_s: list[float] = field(default_factory=list)
    """Of the last try of each request."""
    waited_s: list[float] = field(default_factory=list)
    """Before that try."""
    server: dict[str, ServerTimes] = field(default_factory=dict)
    """By composing model, in their order; empty if the server does not report them."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add_load(self, seconds: float) -> None:
        with self._lock:
            self.load_s.append(seconds)

    def add(self, answer: TimedAnswer) -> None:
        """Adds a request. Ignores answers of a server that does not measure its stages."""
        if answer.photo_s is None:
            return
        with self._lock:
            self.request_s.append(answer.seconds - answer.waited_s)
            self.waited_s.append(answer.waited_s)
            self.decode_s.extend(map(float, answer.photo_s[:, 0]))
            self.preprocess_s.extend(map(float, answer.photo_s[:, 1]))

    def set_server(self, before: Mapping[str, ServerTimes], after: Mapping[str, ServerTimes]) -> None:
        """Sets the server's part. Ignores a server that was restarted meanwhile and counts from 0."""
        since = {name: times.since(before[name]) for name, times in after.items() if name in before}
        is_known = since and all(times.requests > 0 for times in since.values())
        self.server = since if is_known else {}

    def stages(self) -> dict[str, Stage]:
        """The six stages by name, in their order."""
        queue, embed = self._queue_and_embed()
        return {
            "load": Stage.of("load", self.load_s),
            "transport": Stage("transport", len(self.request_s), self._transport(queue, embed)),
            "queue": Stage("queue", len(self.request_s), queue),
            "decode": Stage.of("decode", self.decode_s),
            "preprocess": Stage.of("preprocess", self.preprocess_s),
            "embed": Stage("embed", len(self.request_s), embed),
        }

    def _own_s(self) -> float:
        """Mean decode and preprocess seconds per request."""
        return (sum(self.decode_s) + sum(self.preprocess_s)) / len(self.request_s)

    def _queue_and_embed(self) -> tuple[float | None, float | None]:
        """Waiting for other photos of the same batch counts as queue, and so does waiting for a slot."""
        if not self.server or not self.request_s:
            return None, None
        *before, encoder = self.server.values()
        queue = encoder.mean_s(encoder.queue_ns) + sum(
            each.mean_s(each.queue_ns + each.compute_ns) for each in before
        )
        waited = float(np.mean(self.waited_s))
        return waited + max(0.0, queue - self._own_s()), encoder.mean_s(encoder.compute_ns)

    def _transport(self, queue: float | None, embed: float | None) -> float | None:
        if queue is None or embed is None:
            return None
        whole = float(np.mean(self.request_s)) + float(np.mean(self.waited_s))
        return max(0.0, whole - queue - embed - self._own_s())


def table(stages: Mapping[str, Stage]) -> str:
    """The stages as a text table, in milliseconds."""

    def cell(seconds: float | None) -> str:
        return f"{'-':>9}" if seconds is None else f"{seconds * 1000:9.2f}"

    lines = [f"{'ms':<12}{'min':>9}{'mean':>9}{'max':>9}{'count':>9}"]
    for name, stage in stages.items():
        cells = "".join(map(cell, (stage.min_s, stage.mean_s, stage.max_s)))
        lines.append(f"{name:<12}{cells}{stage.count:>9}")
    return "\n".join(lines)
