"""Triton's own counters: requests, batches, and the time in its queues and models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from clip_client.timings import ServerTimes
from clip_profile.records.measurement import MODEL_OF_STAGE
from clip_profile.records.setting import Setting
from clip_serving import defaults
from clip_serving.errors import ServerError

_MODELS = {**MODEL_OF_STAGE, defaults.ENSEMBLE: defaults.ENSEMBLE}


@dataclass(frozen=True)
class Counts:
    """Of one model since its start: photos, executions by batch size, seconds in executions, and times of
    its requests."""

    photos: int = 0
    batches: dict[int, int] = field(default_factory=dict)
    busy_s: float = 0.0
    times: ServerTimes = field(default_factory=ServerTimes)

    @property
    def executions(self) -> int:
        return sum(self.batches.values())

    def since(self, before: Counts) -> Counts:
        batches = {size: n - before.batches.get(size, 0) for size, n in sorted(self.batches.items())}
        return Counts(
            photos=self.photos - before.photos,
            batches={size: n for size, n in batches.items() if n > 0},
            busy_s=self.busy_s - before.busy_s,
            times=self.times.since(before.times),
        )


Statistics = Mapping[str, Counts]
"""By stage (preprocess, embed), and the ensemble's under its own name."""


def read_statistics(client: InferenceServerClient) -> Statistics:
    """Raises ServerError if the server does not answer, or does not serve all three models."""
    try:
        answer = client.get_inference_statistics(client_timeout=10)
    except InferenceServerException as error:
        raise ServerError(f"cannot read the server's statistics: {error}") from error
    # All versions together: only one serves, and the statistics do not say which.
    of_stage = {stage: [s for s in answer.model_stats if s.name == model] for stage, model in _MODELS.items()}
    if missing := [stage for stage, versions in of_stage.items() if not versions]:
        raise ServerError(f"the server has no statistics of {', '.join(missing)}")
    return {stage: _counts(versions) for stage, versions in of_stage.items()}


def statistics_since(after: Statistics, before: Statistics) -> Statistics:
    """Empty if one of them is, or if the server was restarted in between."""
    found = {stage: after[stage].since(before[stage]) for stage in after if stage in before}
    return {} if any(counts.times.requests < 0 for counts in found.values()) else found


def photos_served(statistics: Statistics) -> int:
    return statistics.get(defaults.ENSEMBLE, Counts()).photos


def _counts(versions: Sequence[Any]) -> Counts:
    batches: Counter[int] = Counter()
    busy_ns = 0
    for batch in (batch for each in versions for batch in each.batch_stats):
        batches[batch.batch_size] += batch.compute_infer.count
        busy_ns += batch.compute_input.ns + batch.compute_infer.ns + batch.compute_output.ns
    return Counts(
        sum(each.inference_count for each in versions),
        dict(batches),
        busy_ns / 1e9,
        sum(map(ServerTimes.of, versions), ServerTimes()),
    )


def read_version(client: InferenceServerClient) -> str:
    """Triton's own; `unknown` where the server does not say, as nothing depends on it."""
    try:
        return str(client.get_server_metadata(client_timeout=10).version)
    except InferenceServerException:
        return "unknown"


def read_configs(client: InferenceServerClient, models: Iterable[str]) -> list[Any]:
    """The ModelConfig of each model. Raises ServerError."""
    try:
        return [client.get_model_config(name, client_timeout=10).config for name in models]
    except InferenceServerException as error:
        raise ServerError(f"cannot read the server's model configurations: {error}") from error


def read_setting(client: InferenceServerClient) -> Setting:
    """How a running server is set up; concurrency and request batch are 1. Raises ServerError."""
    preprocess, encoder = read_configs(client, MODEL_OF_STAGE.values())

    def parameter(name: str, otherwise: str) -> str:
        return encoder.parameters[name].string_value if name in encoder.parameters else otherwise

    return Setting(
        model_config_name=encoder.backend or encoder.platform,
        encoder_precision=parameter("precision", ""),
        preprocess_instances=_instances(preprocess),
        encoder_instances=_instances(encoder),
        encoder_threads=int(parameter("threads", "1")),
        max_batch=encoder.max_batch_size,
        queue_delay_us=encoder.dynamic_batching.max_queue_delay_microseconds,
        concurrency=1,
        request_batch=1,
    )


def _instances(config: Any) -> int:
    return max(1, sum(int(group.count) * max(1, len(group.gpus)) for group in config.instance_group))
