"""Combines the times of the client, of each photo, and of Triton's traces or statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clip_client.timings import ServerTimes, Timings
from clip_profile.records.measurement import MODEL_OF_STAGE, mean_batch
from clip_profile.stages.measure import Measured, Plan
from clip_profile.stages.requests import Answered
from clip_profile.stages.result import ROWS, WHOLE, Distribution, Report
from clip_profile.stages.traces import RequestTrace

_ENOUGH_FOR_P99 = 200
"""With fewer requests the 99th percentile is hardly more than the maximum."""

Stages = dict[str, Distribution]


def make_report(measured: Measured, plan: Plan, about: dict[str, Any]) -> Report:
    """Of any measurement, even if nothing was answered."""
    answered, statistics = measured.answered, measured.statistics
    split = all(one.photo_s is not None for one in answered)
    source = ""
    request: Stages = {}
    photo: Stages = {}
    if measured.traces:
        source, (request, photo) = "traces", _traced(answered, measured.traces, split=split)
    elif split and answered and measured.server:
        source, (request, photo) = "statistics", _means(answered, measured.server)
    own_request, own_photo = _own(answered)
    return Report(
        about=about,
        load={
            "concurrency": plan.concurrency,
            "images_per_request": plan.images_per_request,
            "decode": plan.decode,
            "warm_up_s": measured.warm_up_s,
        },
        ended=measured.ended,
        seconds=measured.seconds,
        requests=len(answered),
        photos=measured.photos,
        photos_per_s=measured.photos / measured.seconds if measured.seconds > 0 else 0.0,
        bytes=sum(one.bytes for one in answered),
        failed=measured.failed.failed_by_code(),
        queue_from=source,
        per_photo={stage: Distribution() for stage in ROWS} | own_photo | photo,
        per_request={stage: Distribution() for stage in ROWS} | own_request | request,
        mean_batch={
            stage: mean_batch(statistics[stage].batches) for stage in MODEL_OF_STAGE if stage in statistics
        },
        resources=measured.resources,
        notes=_notes(measured, source, split=split),
    )


def _own(answered: Sequence[Answered]) -> tuple[Stages, Stages]:
    """A request's and a photo's: what this client saw, and what came with the answers."""
    of_requests = [one.photo_s for one in answered if one.photo_s]
    of_photos = [
        seconds
        for one in answered
        for seconds, embedded in zip(one.photo_s or (), one.embedded, strict=False)
        if embedded
    ]
    whole = [one.whole_s for one in answered]
    request = {
        "load": Distribution.of([one.loaded_s for one in answered]),
        "decode": Distribution.of([sum(decode for decode, _ in rows) for rows in of_requests]),
        "preprocess": Distribution.of([sum(preprocess for _, preprocess in rows) for rows in of_requests]),
        WHOLE: Distribution.of(whole),
    }
    photo = {
        "load": Distribution.of([seconds for one in answered for seconds in one.load_s]),
        "decode": Distribution.of([decode for decode, _ in of_photos]),
        "preprocess": Distribution.of([preprocess for _, preprocess in of_photos]),
        WHOLE: _shared(answered, whole),
    }
    return request, photo


def _shared(answered: Sequence[Answered], seconds: Sequence[float]) -> Distribution:
    """A request's time divided among its photos, each of which counts."""
    pairs = zip(answered, seconds, strict=True)
    return Distribution.of([value / len(one.embedded) for one, value in pairs for _ in one.embedded])


def _traced(
    answered: Sequence[Answered], traces: dict[str, RequestTrace], *, split: bool
) -> tuple[Stages, Stages]:
    """Transport, queue and embed of each request that has a trace.

    Queue is all waiting: at this client for a free slot, at the server after a refusal, for both models, for
    the other photos of its batch, and the way to the decoder's process and back.
    """
    found = [(one, traces[one.request_id]) for one in answered if one.request_id in traces]
    columns = {
        "transport": [max(0.0, one.request_s - _held_s(one, trace) - trace.total_s) for one, trace in found],
        "embed": [trace.embed_s for _, trace in found],
    }
    if split:
        columns["queue"] = [
            _held_s(one, trace)
            + trace.refused_s
            + trace.before_preprocess_s
            + max(0.0, trace.preprocess_s - sum(map(sum, one.photo_s or ())))
            + trace.before_embed_s
            for one, trace in found
        ]
    requests = [one for one, _ in found]
    return (
        {name: Distribution.of(seconds) for name, seconds in columns.items()},
        {name: _shared(requests, seconds) for name, seconds in columns.items()},
    )


def _held_s(one: Answered, trace: RequestTrace) -> float:
    """The wait at this client for a first slot: what precedes the last attempt and is not in the trace."""
    return max(0.0, one.waited_s - trace.refused_s)


def _means(answered: Sequence[Answered], server: dict[str, ServerTimes]) -> tuple[Stages, Stages]:
    """The means alone, as `clip-embed --timings` reports them."""
    rows = [row for one in answered for row in one.photo_s or ()]
    stages = Timings(
        decode_s=[decode for decode, _ in rows],
        preprocess_s=[preprocess for _, preprocess in rows],
        request_s=[one.request_s - one.waited_s for one in answered],
        waited_s=[one.waited_s for one in answered],
        server=server,
    ).stages()
    means = {name: stages[name].mean_s for name in ("transport", "queue", "embed")}
    share = len(answered) / len(rows)
    return (
        {name: Distribution.mean_alone(len(answered), mean) for name, mean in means.items()},
        {name: Distribution.mean_alone(len(rows), mean, share) for name, mean in means.items()},
    )


def _notes(measured: Measured, source: str, *, split: bool) -> list[str]:
    answered, traced = len(measured.answered), len(measured.traces)
    refused = sum(trace.refused_s > 0 for trace in measured.traces.values())
    notes = {
        f"transport, queue and embed are means over all requests: {measured.no_traces}": (
            source == "statistics"
        ),
        "transport, queue and embed are unknown: the server reports neither traces nor statistics": (
            source == ""
        ),
        f"transport, queue and embed are of the {traced} of {answered} requests that have a trace": (
            source == "traces" and traced < answered
        ),
        f"rejected and retried requests: {refused}; their wait counts as queue": refused > 0,
        "the server does not report decode and preprocess times: export its model again": not split,
        f"p99 is based on only {answered} requests: measure longer (--seconds) if it matters": (
            answered < _ENOUGH_FOR_P99
        ),
    }
    return [text for text, true in notes.items() if true] if answered else []
