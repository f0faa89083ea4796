"""The machine and the versions that a run's figures belong to; no host name and no path."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from benchmarks.systems import BenchmarkError
from clip_profile.records.machine import Machine

_OURS = ("clip-triton-serving", "nvidia-pytriton", "onnxruntime", "openvino", "numpy", "pillow", "simplejpeg")
_PEERS = (
    *("fastapi", "uvicorn", "gcloud-aio-storage", "litserve", "open_clip_torch", "torch"),
    *("opencv-python-headless", "pillow", "numpy"),
)
_VERSIONS = (
    "import json, sys; from importlib import metadata; "
    "print(json.dumps({name: metadata.version(name) for name in sys.argv[1:]}))"
)


def describe(peers: Path, cores: int) -> dict[str, str]:
    """What a reader needs to judge, or to repeat, the figures.

    Raises BenchmarkError if `peers`, their Python, lacks one of their packages.
    """
    answer = subprocess.run([str(peers), "-c", _VERSIONS, *_PEERS], capture_output=True, text=True)
    if answer.returncode:
        said = answer.stderr.strip().splitlines()
        raise BenchmarkError(
            f"{peers} lacks a package of the peers ({said[-1] if said else answer.returncode}). "
            "`make setup-bench` creates an environment that has them all"
        )
    here = Machine.here()
    return {
        "CPU": here.cpu,
        "instructions": ", ".join(here.cpu_features) or "none of the known ones",
        "cores used": f"{cores} of {os.cpu_count()}",
        "memory": f"{here.memory_gb:.0f} GiB",
        "GPU": "none used",
        "Python": platform.python_version(),
        "Triton": "2.51 (24.10), embedded",
        "ours": _joined({name: metadata.version(name) for name in _OURS}),
        "peers": _joined(json.loads(answer.stdout)),
    }


def _joined(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
