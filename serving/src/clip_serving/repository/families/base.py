"""The interface of a model family, so that rendering and staging need not know which ones exist."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from tritonclient.grpc import model_config_pb2 as pb

from clip_serving.defaults import Tier
from clip_serving.repository.settings import FamilySettings
from clip_serving.repository.spec import TowerSpec

Spec = TypeVar("Spec", bound=TowerSpec)
Settings = TypeVar("Settings", bound=FamilySettings)

MODEL_PY = "from clip_serving.triton_models.{} import TritonPythonModel as TritonPythonModel\n"
"""A Python model in the repository is this one line; the code is in the installed distribution."""


class ModelFamily(ABC, Generic[Spec, Settings]):
    """An ensemble and its models: how their configs follow from a spec and the operator's settings."""

    name: str
    """The family's section in deployment.json."""
    flag_prefix: str
    """The prefix of its settings' flags, such as `text-`; empty for the image family."""
    models: tuple[str, ...]
    """Its folders in the repository."""
    encoder: str
    """The member of `models` whose version directories hold the exports."""
    python_encoder = "encoder"
    """The module of clip_serving.triton_models that serves the encoder on a CPU."""
    spec: type[Spec]
    settings: type[Settings]

    def served(self, tier: Tier | None) -> tuple[str, ...]:
        """Those of `models` that the servers of a tier serve; of None, all."""
        return () if tier == "decode" else self.models

    @abstractmethod
    def configs(self, spec: Spec, settings: Settings) -> dict[str, pb.ModelConfig]:
        """Every config: path relative to the repository -> ModelConfig.

        In the order in which they are written. The encoder's config.pbtxt names the version that is served,
        so it comes last. Raises ConfigurationError for settings that Triton does not accept.
        """

    @abstractmethod
    def static_files(self) -> dict[str, str]:
        """Files of the repository that depend on nothing: path -> text."""

    def validate(self, spec: Spec, settings: Settings) -> None:
        """Raises ConfigurationError for settings that the exported version cannot serve."""
