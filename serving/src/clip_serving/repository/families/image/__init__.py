"""The image family: clip_image, which runs clip_image_preprocess and then clip_image_encoder."""

from __future__ import annotations

from tritonclient.grpc import model_config_pb2 as pb

from clip_serving import defaults
from clip_serving.defaults import Tier
from clip_serving.errors import ConfigurationError
from clip_serving.repository.families.base import MODEL_PY, ModelFamily
from clip_serving.repository.families.configs import TORCHSCRIPT_OUTPUT, cpu_ensemble
from clip_serving.repository.families.image import encoder, ensemble, preprocess
from clip_serving.repository.families.image.settings import ImageSettings
from clip_serving.repository.spec import ModelSpec


class ImageFamily(ModelFamily[ModelSpec, ImageSettings]):
    name = "image"
    flag_prefix = ""
    models = (defaults.ENSEMBLE, defaults.PREPROCESS, defaults.ENCODER)
    encoder = defaults.ENCODER
    spec = ModelSpec
    settings = ImageSettings

    def served(self, tier: Tier | None) -> tuple[str, ...]:
        _, preprocess, encoder = self.models
        parts = {"decode": (preprocess,), "encode": (encoder,)}
        return self.models if tier is None else parts[tier]

    def unnamed_configs(self, spec: ModelSpec, settings: ImageSettings) -> dict[str, pb.ModelConfig]:
        served = ensemble.config(spec, settings)
        return {
            f"{defaults.ENSEMBLE}/config.pbtxt": served,
            f"{defaults.ENSEMBLE}/configs/cpu.pbtxt": cpu_ensemble(served),
            f"{defaults.ENSEMBLE}/configs/torchscript.pbtxt": ensemble.config(
                spec, settings, encoder_output=TORCHSCRIPT_OUTPUT
            ),
            f"{defaults.PREPROCESS}/config.pbtxt": preprocess.config(spec, settings),
            f"{defaults.ENCODER}/configs/cpu.pbtxt": encoder.cpu(spec, settings),
            f"{defaults.ENCODER}/configs/tensorrt.pbtxt": encoder.tensorrt(spec, settings),
            f"{defaults.ENCODER}/configs/torchscript.pbtxt": encoder.torchscript(spec, settings),
            f"{defaults.ENCODER}/config.pbtxt": encoder.onnx_gpu(spec, settings),
        }

    def unnamed_static_files(self) -> dict[str, str]:
        return {
            # Triton expects a version directory for an ensemble too, and git keeps no empty folders.
            f"{defaults.ENSEMBLE}/1/.gitkeep": "",
            f"{defaults.PREPROCESS}/1/model.py": MODEL_PY.format("preprocess"),
        }

    def validate(self, spec: ModelSpec, settings: ImageSettings) -> None:
        if settings.encoder_precision == "int8":
            try:
                spec.require_int8()
            except ConfigurationError as error:
                raise ConfigurationError(f"{error}; or choose another --encoder-precision") from error


IMAGE = ImageFamily()
