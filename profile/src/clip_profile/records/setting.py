"""One point of a sweep: how the server is configured, and the load on it."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from typing import Any

from clip_client.terminal import counted
from clip_profile.errors import ProfileError
from clip_serving import defaults
from clip_serving.defaults import Precision
from clip_serving.repository.stage import InstanceLayout

CPU_ENCODERS = ("cpu", "python")
"""The config that serves the CPU encoder, and its backend, which is what a running server reports."""
NOMINAL = ("model_config_name", "encoder_precision")
"""Axes whose values are names, without an order."""

LEGEND = (
    "pN: preprocess instances; eNxT: encoder instances x threads; bN: largest batch; "
    "dN: queue delay in microseconds; cNxB: requests in flight x photos in each"
)
"""Explains `Setting.label`."""


@dataclass(frozen=True, order=True)
class Setting:
    """Counts are processes or requests, `queue_delay_us` is in microseconds.

    `concurrency` requests are in flight at once, each with `request_batch` photos. `encoder_precision` and
    `encoder_threads` apply to a CPU encoder; `model_config_name` (the encoder's format) is empty for
    config.pbtxt.
    """

    model_config_name: str
    encoder_precision: str
    preprocess_instances: int
    encoder_instances: int
    encoder_threads: int
    max_batch: int
    queue_delay_us: int
    concurrency: int
    request_batch: int

    @property
    def server(self) -> Setting:
        """The server's part: settings that are equal in it share a server."""
        return dataclasses.replace(self, concurrency=0, request_batch=0)

    @property
    def layout(self) -> InstanceLayout:
        return InstanceLayout(
            preprocess_instances=self.preprocess_instances,
            preprocess_threads=1,
            encoder_instances=self.encoder_instances,
            encoder_threads=self.encoder_threads,
        )

    @property
    def on_cpu(self) -> bool:
        """Whether it is the CPU encoder, the only one with a choice of precision."""
        return self.model_config_name in CPU_ENCODERS

    @property
    def encoder_name(self) -> str:
        """The encoder's format, with the precision of a CPU encoder."""
        name = self.model_config_name or "default"
        return f"{name} {self.encoder_precision}" if self.on_cpu and self.encoder_precision else name

    @property
    def label(self) -> str:
        """Short and unique, to name the setting on a command line: `cpu fp32 p2 e1x2 b64 d2000 c8x1`."""
        encoders = f"e{self.encoder_instances}x{self.encoder_threads}"
        load = f"c{self.concurrency}x{self.request_batch}"
        batching = f"b{self.max_batch} d{self.queue_delay_us}"
        return f"{self.encoder_name} p{self.preprocess_instances} {encoders} {batching} {load}"

    def describe(self) -> str:
        """The label in words."""
        encoders = f"{counted(self.encoder_instances, 'encoder')} x {counted(self.encoder_threads, 'thread')}"
        batching = f"batch {self.max_batch}, delay {self.queue_delay_us / 1000:g} ms"
        load = f"{counted(self.concurrency, 'request')} in flight"
        photos = f" of {self.request_batch} photos" if self.request_batch > 1 else ""
        processes = f"{self.preprocess_instances} preprocess x 1 thread, {encoders}"
        return f"{self.encoder_name}, {processes}, {batching}, {load}{photos}"

    @classmethod
    def usual(cls, cores: int, precision: Precision) -> Setting:
        """What clip-serve does by default on this many cores, under a load that keeps them busy."""
        layout = InstanceLayout.for_cores(cores)
        return cls(
            "cpu", precision, layout.preprocess_instances, layout.encoder_instances, layout.encoder_threads,
            defaults.MAX_BATCH_SIZE, defaults.MAX_QUEUE_DELAY_US, 4 * cores, 1,
        )  # fmt: skip


@dataclass(frozen=True)
class Space:
    """The values to choose from, in ascending order; an axis with one value is fixed."""

    model_config_name: tuple[str, ...] = ("cpu",)
    encoder_precision: tuple[str, ...] = ("fp32",)
    preprocess_instances: tuple[int, ...] = (1, 2, 4)
    encoder_instances: tuple[int, ...] = (1, 2)
    encoder_threads: tuple[int, ...] = (1, 2)
    max_batch: tuple[int, ...] = (defaults.MAX_BATCH_SIZE,)
    queue_delay_us: tuple[int, ...] = (defaults.MAX_QUEUE_DELAY_US,)
    concurrency: tuple[int, ...] = (8,)
    request_batch: tuple[int, ...] = (1,)
    encoder_cores: int = 0
    """Largest product of encoder instances and threads: more than the cores is never faster. 0: any."""

    def __post_init__(self) -> None:
        if not self.points():
            raise ProfileError(
                "no setting is left to measure: the photos of a request must fit into the largest batch, and "
                f"encoder instances x threads into {self.encoder_cores or 'the'} cores"
            )

    @classmethod
    def for_cores(cls, cores: int, **chosen: tuple[Any, ...] | None) -> Space:
        """The axes that matter on a CPU with this many cores; `chosen` ones are used as they are."""
        encoders = min(cores, defaults.MAX_CPU_ENCODER_INSTANCES)
        most = min(16 * cores, defaults.MAX_QUEUE_SIZE)  # the server rejects what does not fit its queue
        axes: dict[str, Any] = {
            "preprocess_instances": (max(1, cores // 2), cores, 2 * cores),
            "encoder_instances": (n for n in (1, 2, 4) if n <= encoders),
            "encoder_threads": (1, max(1, cores // 2), cores),
            "max_batch": (8, defaults.MAX_BATCH_SIZE),
            "queue_delay_us": (0, defaults.MAX_QUEUE_DELAY_US, 10_000),
            "concurrency": (most >> halvings for halvings in range(most.bit_length())),
        }
        axes |= {name: values for name, values in chosen.items() if values}
        free = chosen.get("encoder_instances") and chosen.get("encoder_threads")
        ascending = {name: tuple(sorted(set(values))) for name, values in axes.items()}
        return cls(**ascending, encoder_cores=0 if free else cores)

    @property
    def axes(self) -> dict[str, tuple[Any, ...]]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(Setting)}

    def points(self) -> list[Setting]:
        """Every setting that can work, in a fixed order."""
        settings = itertools.starmap(Setting, itertools.product(*self.axes.values()))
        return [setting for setting in settings if self._can_work(setting)]

    def _can_work(self, setting: Setting) -> bool:
        cores = setting.encoder_instances * setting.encoder_threads
        if not setting.on_cpu and setting.encoder_precision != self.encoder_precision[0]:
            return False  # an encoder on a GPU has no choice of precision
        return setting.request_batch <= setting.max_batch and cores <= (self.encoder_cores or cores)

    def nearest(self, wanted: Setting) -> Setting:
        """The point most similar to `wanted`: first by the ratios of its counts, then by its names."""
        counts = [name for name in self.axes if name not in NOMINAL]

        def distance(point: Setting) -> tuple[float, int]:
            pairs = [(getattr(point, name), getattr(wanted, name)) for name in counts]
            unlike = sum(getattr(point, name) != getattr(wanted, name) for name in NOMINAL)
            return sum(abs(a - b) / max(a, b, 1) for a, b in pairs), unlike

        return min(self.points(), key=distance)
