"""One point of the sweep: how the server is set up, and how hard it is pressed."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from clip_profile.errors import ProfileError
from clip_serving import defaults
from clip_serving.defaults import Precision
from clip_serving.repository.stage import InstanceLayout

CPU_ENCODERS = ("cpu", "python")
"""The config that serves the CPU encoder, and its backend, which is what a running server tells."""
NOMINAL = ("model_config_name", "encoder_precision")
"""Axes whose values are names, in no order."""


@dataclass(frozen=True, order=True)
class Setting:
    """Counts are processes or requests, `queue_delay_us` microseconds.

    `concurrency` requests are in flight at once, each with `request_batch` photos. `encoder_precision` and
    `encoder_threads` are a CPU encoder's; `model_config_name` (the encoder's format) is empty for each
    model's config.pbtxt.
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
        """The part that needs a server of its own: two settings alike in it share one."""
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
        """Whether the encoder is the one that has a precision to choose."""
        return self.model_config_name in CPU_ENCODERS

    @property
    def encoder_name(self) -> str:
        """The encoder's format, and its precision where it has one to choose."""
        name = self.model_config_name or "default"
        return f"{name} {self.encoder_precision}" if self.on_cpu and self.encoder_precision else name

    @property
    def server_label(self) -> str:
        """Short and unique, as in `cpu fp32 p2 e1x2 b64 d2000`."""
        layout = f"p{self.preprocess_instances} e{self.encoder_instances}x{self.encoder_threads}"
        return f"{self.encoder_name} {layout} b{self.max_batch} d{self.queue_delay_us}"

    @property
    def label(self) -> str:
        """The server's label and the load's, as in `cpu fp32 p2 e1x2 b64 d2000 c8x1`."""
        return f"{self.server_label} c{self.concurrency}x{self.request_batch}"

    def explain(self) -> str:
        """The label in words."""

        def count(n: int, noun: str) -> str:
            return f"{n} {noun}" + "s" * (n != 1)

        return (
            f"{count(self.preprocess_instances, 'preprocess instance')}, "
            f"{count(self.encoder_instances, 'encoder instance')} with "
            f"{count(self.encoder_threads, 'thread')} ({self.encoder_name}), batches of up "
            f"to {self.max_batch}, queue delay {self.queue_delay_us / 1000:g} ms; "
            f"{count(self.concurrency, 'request')} in flight with {count(self.request_batch, 'photo')} each"
        )

    @classmethod
    def usual(cls, cores: int, precision: Precision) -> Setting:
        """What clip-serve does on so many cores without being told, under a load that keeps them busy."""
        layout = InstanceLayout.for_cores(cores)
        return cls(
            "cpu", precision, layout.preprocess_instances, layout.encoder_instances, layout.encoder_threads,
            defaults.MAX_BATCH_SIZE, defaults.MAX_QUEUE_DELAY_US, 4 * cores, 1,
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Setting:
        return cls(**values)


LEGEND = (
    "pN: preprocess instances; eNxT: encoder instances x threads; bN: largest batch; "
    "dN: queue delay in microseconds; cNxB: requests in flight x photos in each"
)


@dataclass(frozen=True)
class Space:
    """The values to choose from, in rising order; one value each keeps an axis still."""

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
    """Most encoder instances x threads; 0: any. More than the cores only fight for them."""

    def __post_init__(self) -> None:
        if not self.points():
            raise ProfileError(
                "no setting is left to measure: a request's photos must fit into the largest batch, and "
                f"encoder instances x threads into {self.encoder_cores or 'the'} cores"
            )

    @classmethod
    def for_cores(cls, cores: int, **chosen: tuple[Any, ...] | None) -> Space:
        """The axes that matter on a CPU of so many cores; `chosen` ones are taken as they are."""
        encoders = tuple(n for n in (1, 2, 4) if n <= min(cores, defaults.MAX_CPU_ENCODER_INSTANCES))
        most = min(16 * cores, defaults.MAX_QUEUE_SIZE)  # what is beyond the queue, the server refuses
        axes: dict[str, Any] = {
            "preprocess_instances": tuple(sorted({max(1, cores // 2), cores, 2 * cores})),
            "encoder_instances": encoders,
            "encoder_threads": tuple(sorted({1, max(1, cores // 2), cores})),
            "max_batch": (8, defaults.MAX_BATCH_SIZE),
            "queue_delay_us": (0, defaults.MAX_QUEUE_DELAY_US, 10_000),
            "concurrency": tuple(sorted({most >> halvings for halvings in range(most.bit_length())})),
        }
        axes |= {name: tuple(sorted(set(values))) for name, values in chosen.items() if values}
        free = chosen.get("encoder_instances") and chosen.get("encoder_threads")
        return cls(**axes, encoder_cores=0 if free else cores)

    @property
    def axes(self) -> dict[str, tuple[Any, ...]]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(Setting)}

    def points(self) -> list[Setting]:
        """Every setting that can work, in a fixed order."""
        return list(self._points())

    def _points(self) -> Iterator[Setting]:
        axes = self.axes
        for values in itertools.product(*axes.values()):
            setting = Setting(**dict(zip(axes, values, strict=True)))
            cores = setting.encoder_instances * setting.encoder_threads
            if not setting.on_cpu and setting.encoder_precision != self.encoder_precision[0]:
                continue  # an encoder on a GPU has no such choice
            if setting.request_batch <= setting.max_batch and cores <= (self.encoder_cores or cores):
                yield setting

    def nearest(self, wanted: Setting) -> Setting:
        """The point most like `wanted`: by the ratios of its counts, then by its names."""
        counts = [name for name in self.axes if name not in NOMINAL]

        def distance(point: Setting) -> tuple[float, int]:
            pairs = [(getattr(point, name), getattr(wanted, name)) for name in counts]
            unlike = sum(getattr(point, name) != getattr(wanted, name) for name in NOMINAL)
            return sum(abs(a - b) / max(a, b, 1) for a, b in pairs), unlike

        return min(self.points(), key=distance)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Space:
        axes: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**axes)
