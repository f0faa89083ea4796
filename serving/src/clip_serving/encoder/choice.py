"""Chooses the encoder that a CPU serves: by the setting, the CPU's instructions and a check at load.

As measured in docs/adr/0009: OpenVINO in bf16 if the CPU has BF16 instructions, else onnxruntime in fp32;
int8 in onnxruntime is opt-in.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from clip_serving import defaults
from clip_serving.defaults import EncoderPrecision, Precision
from clip_serving.encoder.cpu import Cpu
from clip_serving.encoder.engines import Encoder, OnnxEncoder, OpenVinoEncoder
from clip_serving.encoder.proof import Proof
from clip_serving.errors import ConfigurationError
from clip_serving.repository.spec import SPEC_FILE, ModelSpec

_INSTEAD = "Serve another precision (clip-serve --encoder-precision, clip-export --encoder-precision)"


@dataclass(frozen=True)
class Chosen:
    """A loaded encoder and its description for the log. `cosine` is to fp32; None for fp32 itself."""

    encoder: Encoder
    precision: Precision
    engine: str
    threads: int
    cosine: float | None
    why: str

    def __str__(self) -> str:
        threads = f"{self.threads} thread" + "s" * (self.threads != 1)
        checked = "" if self.cosine is None else f", cosine to fp32 {self.cosine:.6f} on this CPU"
        return f"{self.precision} in {self.engine}, {threads}{checked} ({self.why})"


def choose(version: Path, wanted: EncoderPrecision, threads: int, cpu: Cpu | None = None) -> Chosen:
    """Loads the encoder of a version directory; `auto` is bf16 if it can be served here, else fp32.

    Raises ConfigurationError if another precision is `wanted` and cannot be served here; the text says why.
    """
    if wanted == "int8":
        return _int8(version, threads)
    if wanted == "fp32":
        return _fp32(version, threads, "chosen")
    cpu = cpu or Cpu.here()
    try:
        return _bf16(version, threads, "chosen" if wanted == "bf16" else "auto", cpu)
    except ConfigurationError as error:
        if wanted == "bf16":
            raise ConfigurationError(f"bf16 cannot be served here: {error}. {_INSTEAD}") from error
        return _fp32(version, threads, f"auto: no bf16 because {error}")


def servable(version: Path, cpu: Cpu | None = None) -> tuple[Precision, ...]:
    """The precisions of a version that this CPU may serve; each one is only checked when it is loaded."""
    found: list[Precision] = ["fp32"]
    try:
        _require_bf16(version, cpu or Cpu.here())
        found.append("bf16")
    except ConfigurationError:
        pass
    try:
        ModelSpec.load(version / SPEC_FILE).require_int8()
        found.append("int8")
    except ConfigurationError:
        pass
    return tuple(found)


def _fp32(version: Path, threads: int, why: str) -> Chosen:
    encoder = OnnxEncoder(version / defaults.ONNX_FP32_FILE, threads)
    return Chosen(encoder, "fp32", "onnxruntime", threads, None, why)


def _bf16(version: Path, threads: int, why: str, cpu: Cpu) -> Chosen:
    _require_bf16(version, cpu)
    encoder = OpenVinoEncoder(version / defaults.ONNX_FP32_FILE, threads, "bf16")
    if encoder.precision != "bf16":
        raise ConfigurationError(f"OpenVINO computes in {encoder.precision} on this CPU")
    cosine = _checked(encoder, version, "bf16")
    return Chosen(encoder, "bf16", "OpenVINO", threads, cosine, why)


def _int8(version: Path, threads: int) -> Chosen:
    try:
        ModelSpec.load(version / SPEC_FILE).require_int8()
        encoder = OnnxEncoder(version / defaults.ONNX_INT8_FILE, threads)
        cosine = _checked(encoder, version, "int8")
    except ConfigurationError as error:
        raise ConfigurationError(f"int8 cannot be served here: {error}. {_INSTEAD}") from error
    return Chosen(encoder, "int8", "onnxruntime", threads, cosine, "chosen")


def _require_bf16(version: Path, cpu: Cpu) -> None:
    if not cpu.has_bf16:
        raise ConfigurationError("this CPU has no BF16 instructions")
    if importlib.util.find_spec("openvino") is None:
        raise ConfigurationError("openvino is not installed (extra `cpu` of clip-triton-serving)")
    if not (version / defaults.PROOF_FILE).is_file():
        raise ConfigurationError(
            f"this export has no {defaults.PROOF_FILE} to check it with (export the model again)"
        )


def _checked(encoder: Encoder, version: Path, precision: Precision) -> float:
    """The least cosine to fp32 on proof.npz; raises ConfigurationError if it is below the bound."""
    proof, bound = Proof.load(version), defaults.MIN_COSINE[precision]
    try:
        cosine = proof.least_cosine(encoder.embed)
    except RuntimeError as error:  # both engines raise it if an instruction or a kernel is missing
        raise ConfigurationError(f"it fails on this CPU: {error}") from error
    if cosine < bound:
        raise ConfigurationError(f"its cosine to fp32 is {cosine:.6f} on this CPU, below {bound}")
    return cosine
