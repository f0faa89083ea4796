"""The machine and the versions that a run's figures belong to; no host name and no path."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import psutil

from benchmarks.contenders import BenchmarkError
from clip_serving.encoder.cpu import Cpu

_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "avx_vnni")
_OURS = ("clip-triton-serving", "nvidia-pytriton", "onnxruntime", "openvino", "numpy", "pillow", "simplejpeg")
_PEERS = (
    *("fastapi", "uvicorn", "gcloud-aio-storage", "litserve", "open_clip_torch", "torch"),
    *("opencv-python-headless", "pillow", "numpy"),
)
_ASK = (
    "import json, sys; from importlib import metadata; "
    "print(json.dumps({name: metadata.version(name) for name in sys.argv[1:]}))"
)


def describe(peers: Path, cores: int) -> dict[str, str]:
    """What a reader needs in order to judge, or to repeat, the figures.

    Raises BenchmarkError where `peers`, their Python, lacks a package of theirs.
    """
    cpu = Cpu.here()
    answer = subprocess.run([str(peers), "-c", _ASK, *_PEERS], capture_output=True, text=True)
    if answer.returncode:
        said = answer.stderr.strip().splitlines()
        raise BenchmarkError(
            f"{peers} has not all that the peers need ({said[-1] if said else answer.returncode}): "
            "`make setup-bench` makes one that has"
        )
    return {
        "CPU": cpu.name,
        "instructions": ", ".join(flag for flag in _FLAGS if flag in cpu.flags) or "none of note",
        "cores used": f"{cores} of {os.cpu_count()}",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "GPU": "none used",
        "Python": platform.python_version(),
        "Triton": "2.51 (24.10), embedded",
        "ours": _versions({name: metadata.version(name) for name in _OURS}),
        "peers": _versions(json.loads(answer.stdout)),
    }


def _versions(found: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in found.items())
