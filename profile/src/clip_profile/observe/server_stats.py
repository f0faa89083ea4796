"""What Triton itself counted between two moments: executions, their batches, and the time they took."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from clip_profile.records.measurement import EMBED, PREPROCESS
from clip_profile.records.setting import Setting
from clip_serving import defaults
from clip_serving.errors import ServerError

MODELS = {PREPROCESS: defaults.PREPROCESS, EMBED: defaults.ENCODER}


@dataclass(frozen=True)
class Counts:
    """Of one model since its start: photos, executions by batch size, seconds in executions."""

    photos: int = 0
    batches: dict[int, int] = field(default_factory=dict)
    busy_s: float = 0.0

    def since(self, before: Counts) -> Counts:
        batches = {size: n - before.batches.get(size, 0) for size, n in sorted(self.batches.items())}
        return Counts(
            photos=self.photos - before.photos,
            batches={size: n for size, n in batches.items() if n > 0},
            busy_s=self.busy_s - before.busy_s,
        )


def read_counts(client: InferenceServerClient) -> dict[str, Counts]:
    """By stage, and the ensemble's under its own name. Raises ServerError when nobody answers."""
    try:
        answer = client.get_inference_statistics(client_timeout=10)
    except InferenceServerException as error:
        raise ServerError(f"the server tells no statistics: {error}") from error
    found: dict[str, Counts] = {}
    for stage, model in {**MODELS, defaults.ENSEMBLE: defaults.ENSEMBLE}.items():
        # All versions together: only one serves, but which is not ours to guess.
        for statistics in (s for s in answer.model_stats if s.name == model):
            found[stage] = _add(found.get(stage, Counts()), statistics)
    return found


def _add(counts: Counts, statistics: Any) -> Counts:
    batches = dict(counts.batches)
    busy_ns = 0
    for batch in statistics.batch_stats:
        batches[batch.batch_size] = batches.get(batch.batch_size, 0) + batch.compute_infer.count
        busy_ns += batch.compute_input.ns + batch.compute_infer.ns + batch.compute_output.ns
    return Counts(counts.photos + statistics.inference_count, batches, counts.busy_s + busy_ns / 1e9)


def read_version(client: InferenceServerClient) -> str:
    """Triton's own; `unknown` where it is not told, for nothing depends on it."""
    try:
        return str(client.get_server_metadata(client_timeout=10).version)
    except InferenceServerException:
        return "unknown"


def read_setting(client: InferenceServerClient) -> Setting:
    """How a running server is set up; concurrency and request batch are 1. Raises ServerError."""
    try:
        configs = {
            name: client.get_model_config(name, client_timeout=10).config
            for name in (defaults.PREPROCESS, defaults.ENCODER)
        }
    except InferenceServerException as error:
        raise ServerError(f"the server does not tell how it is set up: {error}") from error
    encoder = configs[defaults.ENCODER]
    threads = encoder.parameters["threads"].string_value if "threads" in encoder.parameters else "1"
    return Setting(
        model_config_name=encoder.backend or encoder.platform,
        encoder_precision=encoder.parameters["precision"].string_value
        if "precision" in encoder.parameters
        else "",
        preprocess_instances=_instances(configs[defaults.PREPROCESS]),
        encoder_instances=_instances(encoder),
        encoder_threads=int(threads),
        max_batch=encoder.max_batch_size,
        queue_delay_us=encoder.dynamic_batching.max_queue_delay_microseconds,
        concurrency=1,
        request_batch=1,
    )


def _instances(config: Any) -> int:
    return max(1, sum(int(group.count) * max(1, len(group.gpus)) for group in config.instance_group))


def photos_served(counts: Mapping[str, Counts]) -> int:
    return counts[defaults.ENSEMBLE].photos if defaults.ENSEMBLE in counts else 0


@dataclass(frozen=True)
class PhotoSeconds:
    """Seconds in decode and in preprocess since the server's start, and the photos in each."""

    decode_s: float = 0.0
    decoded: float = 0.0
    preprocess_s: float = 0.0
    preprocessed: float = 0.0

    def mean_ms_since(self, before: PhotoSeconds) -> tuple[float, float] | None:
        """Decode and preprocess per photo; None where nothing was counted in between."""
        decoded, preprocessed = self.decoded - before.decoded, self.preprocessed - before.preprocessed
        if decoded <= 0 or preprocessed <= 0:
            return None
        return (
            1000 * (self.decode_s - before.decode_s) / decoded,
            1000 * (self.preprocess_s - before.preprocess_s) / preprocessed,
        )


_METRIC = re.compile(r"^clip_(decode|preprocess)_seconds_(sum|count)(?:\{[^}]*\})? (\S+)$", re.M)


def read_photo_seconds(metrics_url: str | None) -> PhotoSeconds:
    """From the server's Prometheus page; zeros where there is none to read, for nothing depends on it."""
    if metrics_url is None:
        return PhotoSeconds()
    try:
        with urllib.request.urlopen(metrics_url, timeout=5) as answer:
            text = answer.read().decode("utf-8", "replace")
    except (OSError, ValueError):
        return PhotoSeconds()
    return photo_seconds(text)


def photo_seconds(metrics: str) -> PhotoSeconds:
    """Out of Prometheus' text, over all instances."""
    found: dict[tuple[str, str], float] = {}
    for stage, kind, value in _METRIC.findall(metrics):
        found[stage, kind] = found.get((stage, kind), 0.0) + float(value)
    return PhotoSeconds(
        decode_s=found.get(("decode", "sum"), 0.0),
        decoded=found.get(("decode", "count"), 0.0),
        preprocess_s=found.get(("preprocess", "sum"), 0.0),
        preprocessed=found.get(("preprocess", "count"), 0.0),
    )
