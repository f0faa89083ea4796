"""Puts the clocks together: the client's, each photo's own, and Triton's traces or statistics."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

from clip_client.timings import Timings
from clip_profile.records.measurement import EMBED, PREPROCESS, mean_batch
from clip_profile.stages.loop import Answered
from clip_profile.stages.measure import Measured, Plan
from clip_profile.stages.result import ROWS, WHOLE, Distribution, Report, Resources, Usage
from clip_profile.stages.traces import RequestTrace

_SURE_OF_P99 = 200
"""Requests below which the 99th percentile is hardly more than the maximum."""

Stages = dict[str, Distribution]


def make_report(measured: Measured, plan: Plan, about: dict[str, Any]) -> Report:
    """Of any measurement, one of nothing included."""
    answered = measured.answered
    told = all(one.photo_s is not None for one in answered)
    per_request = {name: Distribution() for name in ROWS} | _clients(answered, per_photo=False)
    per_photo = {name: Distribution() for name in ROWS} | _clients(answered, per_photo=True)
    if measured.traces:
        source = "traces"
        per_request |= _traced(answered, measured.traces, told, per_photo=False)
        per_photo |= _traced(answered, measured.traces, told, per_photo=True)
    elif told and measured.statistics.times and answered:
        source = "statistics"
        per_request |= _means(measured, per_photo=False)
        per_photo |= _means(measured, per_photo=True)
    else:
        source = ""
    photos = sum(sum(one.embedded) for one in answered)
    counts = measured.statistics.counts
    return Report(
        about=about,
        load={
            "concurrency": plan.concurrency,
            "images_per_request": plan.images_per_request,
            "warm_up_s": measured.warm_up_s,
        },
        ended=measured.ended,
        seconds=measured.seconds,
        requests=len(answered),
        photos=photos,
        bytes=sum(one.bytes for one in answered),
        failed=measured.failed.failed_by_code(),
        queue_from=source,
        per_photo=per_photo,
        per_request=per_request,
        mean_batch={
            stage: mean_batch(counts[stage].batches) for stage in (PREPROCESS, EMBED) if stage in counts
        },
        resources=(
            measured.meter.resources(photos, measured.seconds) if measured.meter else Resources(Usage(), None)
        ),
        notes=tuple(_notes(measured, source, told)),
    )


def _clients(answered: Sequence[Answered], *, per_photo: bool) -> Stages:
    """What this client saw, and what came with the answers. A photo has its share of its request."""
    photo_s = [one.photo_s or () for one in answered]
    if per_photo:
        good = [
            seconds
            for one, rows in zip(answered, photo_s, strict=True)
            for seconds, embedded in zip(rows, one.embedded, strict=False)
            if embedded
        ]
        return {
            "load": Distribution.of(list(chain.from_iterable(one.load_s for one in answered))),
            "decode": Distribution.of([decode for decode, _ in good]),
            "preprocess": Distribution.of([preprocess for _, preprocess in good]),
            WHOLE: _shared(answered, [one.whole_s for one in answered]),
        }
    rows_of = [rows for rows in photo_s if rows]
    return {
        "load": Distribution.of([one.loaded_s for one in answered]),
        "decode": Distribution.of([sum(decode for decode, _ in rows) for rows in rows_of]),
        "preprocess": Distribution.of([sum(preprocess for _, preprocess in rows) for rows in rows_of]),
        WHOLE: Distribution.of([one.whole_s for one in answered]),
    }


def _shared(answered: Sequence[Answered], seconds: Sequence[float]) -> Distribution:
    """A request's time divided among its photos, each of which counts."""
    return Distribution.of(
        [
            value / len(one.embedded)
            for one, value in zip(answered, seconds, strict=True)
            for _ in one.embedded
        ]
    )


def _traced(
    answered: Sequence[Answered], traces: dict[str, RequestTrace], told: bool, *, per_photo: bool
) -> Stages:
    """Transport, queue and embed of each request that has a trace.

    Queue is all waiting: for its turn at this client, for the server to take it after a refusal, for both
    models, for the other photos of its batch, and the way to the decoder's process and back.
    """
    found = [(one, traces[one.request_id]) for one in answered if one.request_id in traces]
    requests = [one for one, _ in found]
    columns = {
        "transport": [max(0.0, one.request_s - _held_s(one, trace) - trace.total_s) for one, trace in found],
        "embed": [trace.embed_s for _, trace in found],
    }
    if told:
        columns["queue"] = [
            _held_s(one, trace)
            + trace.refused_s
            + trace.before_preprocess_s
            + max(0.0, trace.preprocess_s - sum(map(sum, one.photo_s or ())))
            + trace.before_embed_s
            for one, trace in found
        ]
    if per_photo:
        return {name: _shared(requests, seconds) for name, seconds in columns.items()}
    return {name: Distribution.of(seconds) for name, seconds in columns.items()}


def _held_s(one: Answered, trace: RequestTrace) -> float:
    """The wait at this client for a first turn: what comes before the last try and is not in the trace."""
    return max(0.0, one.waited_s - trace.refused_s)


def _means(measured: Measured, *, per_photo: bool) -> Stages:
    """The means alone, as clip-embed --timings has them."""
    answered = measured.answered
    rows = list(chain.from_iterable(one.photo_s or () for one in answered))
    timings = Timings(
        decode_s=[decode for decode, _ in rows],
        preprocess_s=[preprocess for _, preprocess in rows],
        request_s=[one.request_s - one.waited_s for one in answered],
        waited_s=[one.waited_s for one in answered],
        server=measured.statistics.times,
    )
    stages = timings.stages()
    count = len(rows) if per_photo else len(answered)
    share = len(answered) / len(rows) if per_photo else 1.0
    return {
        name: Distribution.mean_alone(count, None if mean is None else share * mean)
        for name in ("transport", "queue", "embed")
        for mean in [stages[name].mean_s]
    }


def _notes(measured: Measured, source: str, told: bool) -> list[str]:
    answered, traced = len(measured.answered), len(measured.traces)
    if not answered:
        return []
    notes = []
    if source == "statistics":
        notes.append(f"transport, queue and embed are means over all requests: {measured.no_traces}")
    if source == "":
        notes.append(
            "the server tells neither traces nor statistics: transport, queue and embed are not known"
        )
    if source == "traces" and traced < answered:
        notes.append(f"{traced} of {answered} requests have a trace: transport, queue and embed are theirs")
    refused = sum(trace.refused_s > 0 for trace in measured.traces.values())
    if refused:
        notes.append(f"{refused} requests were refused and came again: that waiting is queue")
    if not told:
        notes.append("the server does not tell decode and preprocess of a photo: export its model again")
    if answered < _SURE_OF_P99:
        notes.append(f"p99 rests on {answered} requests: measure longer where it matters (--seconds)")
    return notes
