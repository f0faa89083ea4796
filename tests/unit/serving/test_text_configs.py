"""The configs of the text family, as Triton understands them."""

from __future__ import annotations

from typing import Any

import pytest
from tritonclient.grpc import model_config_pb2 as pb

from clip_serving.repository.families.text import TEXT
from clip_serving.repository.families.text.settings import TextSettings
from clip_serving.repository.spec import TextSpec


def configs(**settings: Any) -> dict[str, pb.ModelConfig]:
    spec = TextSpec(
        model="m", pretrained="p", embedding_dim=8, context_length=77, clean="lower", logit_scale=100.0
    )
    return TEXT.configs(spec, TextSettings(**settings))


@pytest.mark.parametrize(("settings", "limit"), [
    ({}, 64 + 2 * 64),
    ({"max_queue_size": 0}, 0),
    ({"max_queue_size": 1, "max_batch_size": 1}, 32),
    ({"max_queue_size": 128, "tokenize_instances": 3, "max_batch_size": 16}, 128 + 2 * 3 * 16),
])  # fmt: skip
def test_the_encoders_queue_is_bounded_above_what_tokenize_holds(
    settings: dict[str, Any], limit: int
) -> None:
    found = configs(**settings)
    for path in ("clip_text/config.pbtxt", "clip_text/configs/torchscript.pbtxt"):
        assert found[path].ensemble_scheduling.max_inflight_requests == limit
    embedded = found["clip_text/configs/cpu.pbtxt"]
    assert embedded.ensemble_scheduling.max_inflight_requests == 0, "its release does not know the field"
    found["clip_text/config.pbtxt"].ensemble_scheduling.ClearField("max_inflight_requests")
    assert embedded == found["clip_text/config.pbtxt"]


def test_torchscript_output_reaches_the_ensemble() -> None:
    found = configs()
    encoder = found["clip_text_encoder/configs/torchscript.pbtxt"]
    assert encoder.default_model_filename == "model.pt"
    step = found["clip_text/configs/torchscript.pbtxt"].ensemble_scheduling.step[1]
    assert dict(step.output_map) == {encoder.output[0].name: "embedding"}
