"""What keeps a setting from being faster: read from how busy each part was, not guessed."""

from __future__ import annotations

from dataclasses import dataclass

from clip_profile.records.measurement import EMBED, PREPROCESS, Measurement
from clip_profile.records.results import Result

BUSY = 0.85
"""A part that is used this much of the time is what the others wait for."""
_MUCH = 0.5
"""Of the cores, for a client that is to take hardly any."""
_OTHERS = 0.2
_FAR = 0.3


@dataclass(frozen=True)
class Bottleneck:
    """`part` is one word for machines; `why` and `next_step` are sentences for people."""

    part: str
    why: str
    next_step: str


def bottleneck_of(result: Result) -> Bottleneck:
    """The first of these that is used up: GPU, client, cores, encoder, preprocess, network; else load.

    `machine`: the cores are used up where the client runs, and the server's share of them cannot be seen.
    """
    gpu = result.mean(lambda one: one.resources.gpu)
    own = result.mean(lambda one: one.resources.server_busy)
    client = result.mean(lambda one: one.resources.client_busy) or 0.0
    machine = result.mean(lambda one: one.resources.machine_busy) or 0.0
    if gpu is not None and gpu >= BUSY:
        return Bottleneck(
            "gpu",
            f"The GPU bounds it: it was in use {gpu:.0%} of the time.",
            "A smaller model, the TensorRT variant, or a second GPU.",
        )
    if client >= _MUCH:
        return Bottleneck(
            "client",
            f"The client bounds it: perf_analyzer took {client:.0%} of its machine's cores.",
            "Make the load from a machine of its own, or from a larger one.",
        )
    if own is None and machine >= BUSY:
        return Bottleneck(
            "machine",
            f"The machine that makes the load bounds it: its cores were {machine:.0%} busy, perf_analyzer "
            f"with {client:.0%}. Whether the server is among the rest cannot be seen from here.",
            "If the server runs there, more cores for it; if not, a client that has a machine to itself.",
        )
    if own is not None and own >= BUSY:
        return _cores(result, own)
    if own is not None and machine >= BUSY and machine - own - client >= _OTHERS:
        return Bottleneck(
            "others",
            f"Other programs bound it: the machine's cores were {machine:.0%} busy, of that the service "
            f"{own:.0%}.",
            "Measure again on a machine with nothing else to do: these figures are a shared machine's.",
        )
    if own is not None and machine >= BUSY:
        return _cores(result, own)
    return _stages(result, own)


def _cores(result: Result, own: float) -> Bottleneck:
    embed, total = _cpu(result, EMBED), result.mean(lambda one: one.resources.cpu_ms_per_photo)
    share = embed / total if embed is not None and total else 0.5
    why = (
        f"The cores bound it: the service kept them {own:.0%} busy, and the encoder took {share:.0%} of its "
        f"{total or 0:.0f} ms of CPU a photo, decode and preprocess most of the rest."
    )
    if share >= 0.5:
        return Bottleneck(
            "encoder", why, "A GPU for the encoder, a smaller model or a lower precision; more cores."
        )
    return Bottleneck(
        "preprocess", why, "More cores for preprocess, or a lower --quality (see operations.md)."
    )


def _stages(result: Result, own: float | None) -> Bottleneck:
    embed, preprocess = _busy(result, EMBED), _busy(result, PREPROCESS)
    idle = "" if own is None else f", while the service left {1 - own:.0%} of the cores idle"
    if max(embed, preprocess) >= BUSY:
        if embed >= preprocess:
            why = f"The encoder bounds it: its instances computed {embed:.0%} of the time{idle}."
            return Bottleneck("encoder", why, "More encoder instances or threads, a smaller model, or a GPU.")
        why = f"Preprocess bounds it: its instances were busy {preprocess:.0%} of the time{idle}."
        return Bottleneck("preprocess", why, "More preprocess instances, and cores for them.")
    transport = result.mean(lambda one: one.transport_ms / one.mean_ms) or 0.0
    if transport >= _FAR:
        return Bottleneck(
            "network",
            f"The way to the server bounds it: {transport:.0%} of a request's time passed outside of it.",
            "A client nearer to the server, a faster link, or more requests in flight.",
        )
    return Bottleneck(
        "load",
        f"The load bounds it: nothing was busy all the time, the encoder {embed:.0%} of it and preprocess "
        f"{preprocess:.0%}.",
        "More requests in flight, if the latency may rise.",
    )


def _busy(result: Result, stage: str) -> float:
    return result.mean(lambda one: one.stages[stage].busy) or 0.0


def _cpu(result: Result, stage: str) -> float | None:
    def figure(one: Measurement) -> float | None:
        return one.stages[stage].cpu_ms_per_photo

    return result.mean(figure)
