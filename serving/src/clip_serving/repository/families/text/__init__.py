"""The text family: clip_text, which runs clip_text_tokenize and then clip_text_encoder."""

from __future__ import annotations

from tritonclient.grpc import model_config_pb2 as pb

from clip_serving import defaults
from clip_serving.repository.families.base import ModelFamily
from clip_serving.repository.families.configs import TORCHSCRIPT_OUTPUT, cpu_ensemble
from clip_serving.repository.families.text import models
from clip_serving.repository.families.text.settings import TextSettings
from clip_serving.repository.spec import TextSpec


class TextFamily(ModelFamily[TextSpec, TextSettings]):
    name = "text"
    flag_prefix = "text-"
    models = (defaults.TEXT_ENSEMBLE, defaults.TOKENIZE, defaults.TEXT_ENCODER)
    encoder = defaults.TEXT_ENCODER
    python_encoder = "text_encoder"
    spec = TextSpec
    settings = TextSettings

    def unnamed_configs(self, spec: TextSpec, settings: TextSettings) -> dict[str, pb.ModelConfig]:
        served = models.ensemble(spec, settings)
        return {
            f"{defaults.TEXT_ENSEMBLE}/config.pbtxt": served,
            f"{defaults.TEXT_ENSEMBLE}/configs/cpu.pbtxt": cpu_ensemble(served),
            f"{defaults.TEXT_ENSEMBLE}/configs/torchscript.pbtxt": models.ensemble(
                spec, settings, encoder_output=TORCHSCRIPT_OUTPUT
            ),
            f"{defaults.TOKENIZE}/config.pbtxt": models.tokenize(spec, settings),
            f"{defaults.TEXT_ENCODER}/configs/cpu.pbtxt": models.encoder_cpu(spec, settings),
            f"{defaults.TEXT_ENCODER}/configs/torchscript.pbtxt": models.encoder_torchscript(spec, settings),
            f"{defaults.TEXT_ENCODER}/config.pbtxt": models.encoder_gpu(spec, settings),
        }

    def unnamed_static_files(self) -> dict[str, str]:
        return {f"{defaults.TEXT_ENSEMBLE}/1/.gitkeep": ""}


TEXT = TextFamily()
