"""Finds the part that limits a setting, from how busy each part was."""

from __future__ import annotations

from dataclasses import dataclass

from clip_profile.answer import metrics
from clip_profile.records.measurement import EMBED, PREPROCESS
from clip_profile.records.results import Figure, Result

BUSY = 0.85
"""A part that is in use for this share of the time holds up the others."""
_CLIENT_SHARE = 0.5
"""Of the cores; a client should need hardly any."""
_OTHERS_SHARE = 0.2
_TRANSPORT_SHARE = 0.3


@dataclass(frozen=True)
class Bottleneck:
    """`part` is one word for machines; `why` and `next_step` are sentences for people."""

    part: str
    why: str
    next_step: str


def bottleneck_of(result: Result) -> Bottleneck:
    """The first of these that is exhausted: GPU, client, cores, encoder, preprocess, network; else the load.

    `machine`: the cores of the client's machine are exhausted, and the server may or may not be on it.
    """
    gpu, server = _share(result, metrics.gpu_percent), _share(result, metrics.server_percent)
    client = _share(result, metrics.client_percent) or 0.0
    machine = _share(result, metrics.machine_percent) or 0.0
    if gpu is not None and gpu >= BUSY:
        why = f"GPU-bound: the busiest GPU was in use {gpu:.0%} of the time."
        return Bottleneck("gpu", why, "use a smaller model, the TensorRT variant, or a second GPU.")
    if client >= _CLIENT_SHARE:
        why = f"Client-bound: perf_analyzer used {client:.0%} of its machine's cores."
        return Bottleneck("client", why, "generate the load on a separate or larger machine.")
    if server is None:
        return _machine(machine, client) if machine >= BUSY else _stages(result, "")
    if server < BUSY <= machine and machine - server - client >= _OTHERS_SHARE:
        why = (
            f"Other programs are the limit: the machine's cores were {machine:.0%} busy, only {server:.0%} "
            "with the service."
        )
        return Bottleneck("others", why, "measure again on an idle machine.")
    if max(machine, server) >= BUSY:
        return _cores(result, server)
    return _stages(result, f", and the service left {1 - server:.0%} of the cores idle")


def _share(result: Result, percent: Figure) -> float | None:
    mean = result.mean(percent)
    return None if mean is None else mean / 100


def _machine(machine: float, client: float) -> Bottleneck:
    why = (
        f"The client's machine is the limit: its cores were {machine:.0%} busy, {client:.0%} with "
        "perf_analyzer. The server may or may not be part of the rest."
    )
    next_step = "if the server runs there, add cores; if not, generate the load on an idle machine."
    return Bottleneck("machine", why, next_step)


def _cores(result: Result, server: float) -> Bottleneck:
    embed = result.mean(lambda one: one.stages[EMBED].cpu_ms_per_photo)
    total = result.mean(metrics.CPU.of)
    share = embed / total if embed is not None and total else 0.5
    why = (
        f"CPU-bound: the service kept the cores {server:.0%} busy. The encoder took {share:.0%} of its "
        f"{total or 0:.0f} ms of CPU per photo, decode and preprocess most of the rest."
    )
    if share >= 0.5:
        next_step = "use a GPU for the encoder, a smaller model, a lower precision, or more cores."
        return Bottleneck("encoder", why, next_step)
    next_step = "add cores for preprocess, or lower --quality (see docs/explanation/pixels.md)."
    return Bottleneck("preprocess", why, next_step)


def _stages(result: Result, idle: str) -> Bottleneck:
    embed = result.mean(lambda one: one.stages[EMBED].busy) or 0.0
    preprocess = result.mean(lambda one: one.stages[PREPROCESS].busy) or 0.0
    if embed >= max(BUSY, preprocess):
        why = f"Encoder-bound: its instances were busy {embed:.0%} of the time{idle}."
        next_step = "add encoder instances or threads, or use a smaller model or a GPU."
        return Bottleneck("encoder", why, next_step)
    if preprocess >= BUSY:
        why = f"Preprocess-bound: its instances were busy {preprocess:.0%} of the time{idle}."
        return Bottleneck("preprocess", why, "add preprocess instances, and cores for them.")
    transport = result.mean(lambda one: one.transport_ms / one.mean_ms) or 0.0
    if transport >= _TRANSPORT_SHARE:
        why = f"Network-bound: {transport:.0%} of a request's latency was outside the server."
        next_step = "use a client closer to the server, a faster link, or more requests in flight."
        return Bottleneck("network", why, next_step)
    why = (
        f"Load-bound: no part was fully busy (encoder {embed:.0%}, preprocess {preprocess:.0%} of the time)."
    )
    return Bottleneck("load", why, "put more requests in flight, if the latency may rise.")
