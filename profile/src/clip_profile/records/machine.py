"""The machine and the versions that were measured, without which figures mean nothing."""

from __future__ import annotations

import platform
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata

import psutil

from clip_profile.observe import gpu
from clip_serving.encoder.cpu import Cpu
from clip_serving.repository.stage import available_cores

_PACKAGES = (
    "clip-triton-serving", "clip-triton-client", "nvidia-pytriton", "onnxruntime", "openvino", "numpy",
    "pillow", "simplejpeg", "cykooz-resizer",
)  # fmt: skip
_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


@dataclass(frozen=True)
class Machine:
    """`cores` are those that this process may use; `gpus` is empty without NVIDIA's driver."""

    system: str
    cpu: str
    cores: int
    memory_gb: float
    cpu_features: tuple[str, ...]
    gpus: tuple[str, ...]

    @classmethod
    def here(cls) -> Machine:
        cpu = Cpu.here()
        return cls(
            system=f"{platform.system()} {platform.release()}",
            cpu=cpu.name,
            cores=available_cores(),
            memory_gb=round(psutil.virtual_memory().total / 2**30, 1),
            cpu_features=tuple(name for name in _FEATURES if name in cpu.flags),
            gpus=gpu.names(),
        )

    def describe(self) -> str:
        """One line."""
        parts = [f"{self.cores} cores of {self.cpu}", f"{self.memory_gb:g} GiB", *self.gpus, self.system]
        return ", ".join(parts)


def versions(**others: str) -> dict[str, str]:
    """Of Python and of every installed package that affects the figures; and `others`."""
    found = {"python": platform.python_version(), **others}
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found
