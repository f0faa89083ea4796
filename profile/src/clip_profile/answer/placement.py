"""Where to decode: the cores that keep the encoder busy, and what each placement sends over the network."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from clip_profile.answer import metrics
from clip_profile.records.measurement import EMBED, PREPROCESS, Measurement
from clip_profile.records.results import Result
from clip_profile.records.run_folder import About

_ENOUGH = 1.2
"""Decoding elsewhere is advised if the server lacks more than a sixth of the cores."""


@dataclass(frozen=True)
class Placement:
    """For one setting. `decode_ms` is CPU time of decode and preprocess per photo, or, of a server whose
    processes were not seen, their elapsed time, which is more on busy cores (`is_cpu_time`).

    `encoder_per_s` is what the encoder embeds if it never waits, per GPU or, on a CPU, on all of the server's
    cores. `cores_needed` decode for it; the server has `cores`, None on another machine. Bytes are per photo.
    """

    decode_ms: float
    is_cpu_time: bool
    encoder_per_s: float
    on_cpu: bool
    cores_needed: float
    cores: int | None
    photo_bytes: int
    pixel_bytes: int

    @property
    def advised(self) -> str:
        """`server`, or `elsewhere`: in clients that have cores, or on a tier."""
        if self.on_cpu or self.cores is None:
            return "server"
        return "elsewhere" if self.cores_needed > _ENOUGH * self.cores else "server"

    @property
    def rows(self) -> list[tuple[str, str, int, int]]:
        """--decode, where it decodes, bytes that reach the encoder's server, bytes of the client."""
        photo, pixels = self.photo_bytes, self.pixel_bytes
        return [
            ("server", "next to the encoder", photo, photo),
            ("client", "in the client's process", pixels, pixels),
            ("host:port", "on servers without a GPU", pixels, photo + 2 * pixels),
        ]

    def to_dict(self) -> dict[str, Any]:
        """For machines."""
        names = ("decode", "where", "bytes_to_encoder", "bytes_of_client")
        rows = [dict(zip(names, row, strict=True)) for row in self.rows]
        return {**asdict(self), "advised": self.advised, "placements": rows}

    def sentences(self) -> list[str]:
        kind = "CPU" if self.is_cpu_time else "elapsed time"
        encoder = "The encoder alone on these cores" if self.on_cpu else "One encoder"
        has = "" if self.cores is None else f"; the server has {self.cores}"
        return [
            f"Placement: decode and preprocess take {self.decode_ms:.1f} ms of {kind} per photo. {encoder} "
            f"could embed {self.encoder_per_s:.0f} photos/s. {math.ceil(self.cores_needed)} cores like these "
            f"decode as many{has}.",
            f"Bytes per photo to the encoder's server: {self.photo_bytes:,} with --decode server, "
            f"{self.pixel_bytes:,} with --decode client or host:port. {self._advice()}",
        ]

    def _advice(self) -> str:
        if self.on_cpu:
            return "Decoding elsewhere frees cores for the encoder, and pays if other machines have some."
        if self.cores is None:
            return "Decode elsewhere if the server has fewer cores."
        if self.advised == "elsewhere":
            return "Decode elsewhere: clip-embed --decode client, or a tier with --decode host:port."
        return "Keep --decode server."


def placement_of(result: Result, about: About) -> Placement | None:
    """None if the run does not say what decoding costs."""
    cpu_ms = result.mean(lambda one: one.stages[PREPROCESS].cpu_ms_per_photo)
    decode_ms = cpu_ms if cpu_ms is not None else result.mean(_elapsed_ms)
    encoder_per_s = _encoder_per_s(result, about.cores)
    if not decode_ms or not encoder_per_s:
        return None
    return Placement(
        decode_ms=decode_ms,
        is_cpu_time=cpu_ms is not None,
        encoder_per_s=encoder_per_s,
        on_cpu=result.setting.on_cpu,
        cores_needed=encoder_per_s * decode_ms / 1000,
        cores=about.cores,
        photo_bytes=int(about.photos["mean_bytes"]),
        pixel_bytes=about.pixel_bytes,
    )


def _elapsed_ms(one: Measurement) -> float | None:
    if one.decode_ms is None or one.preprocess_ms is None:
        return None
    return one.decode_ms + one.preprocess_ms


def _encoder_per_s(result: Result, cores: int | None) -> float | None:
    """If it never waited: by its CPU time if it is on the server's cores, else by how busy it was."""
    cpu_ms = result.mean(lambda one: one.stages[EMBED].cpu_ms_per_photo)
    if result.setting.on_cpu and cpu_ms and cores:
        return 1000 * cores / cpu_ms
    gpu = result.mean(metrics.gpu_percent)
    busy = max(result.mean(lambda one: one.stages[EMBED].busy) or 0.0, (gpu or 0.0) / 100)
    return result.photos_per_s / busy if busy else None
