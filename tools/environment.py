"""Creates one of the environments: `python3 tools/environment.py DIR serve|export|bench|search|engines`.

Needs only Python with venv. pip installs uv into `.venv`, and uv installs `requirements-KIND.txt` into
DIR. Run it again after a failure or a change of the requirements: it installs what is missing. The stamp
DIR/.ready is written last.
"""

from __future__ import annotations

import argparse
import ast
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UV = "uv==0.13.9"
SUPPORTED = ((3, 10), (3, 13))
FIRST_WITHOUT_NUMPY_1 = (3, 13)
"""The first Python for which PyPI has no wheel of numpy 1."""
TORCH_INDEX_URL = os.environ.get("TORCH_INDEX_URL", "")
"""An index of torch wheels. PyPI's are CUDA builds (5 GB); PyTorch's own index has CPU builds (0.8 GB)."""
LIKE_PIP = ("index-url", "extra-index-url", "find-links", "constraint")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("kind", choices=["serve", "export", "bench", "search", "engines"])
    options = parser.parse_args()
    if not SUPPORTED[0] <= sys.version_info[:2] <= SUPPORTED[1]:
        first, last = (".".join(map(str, version)) for version in SUPPORTED)
        version = sys.version.split()[0]
        sys.exit(
            f"Python {version} is not supported. Choose one from {first} to {last}: make PYTHON=python3.x"
        )
    folder = ROOT / options.folder
    stamp = folder / ".ready"
    stamp.unlink(missing_ok=True)
    try:
        _create(folder, options.kind)
    except subprocess.CalledProcessError as error:
        print(f"set-up failed: {' '.join(map(str, error.cmd))}", file=sys.stderr)
        return error.returncode
    stamp.touch()
    return 0


def _create(folder: Path, kind: str) -> None:
    print(f"set-up: creating {folder.name} ...", flush=True)
    uv = _install_uv()
    python = folder / "bin" / "python"
    if not python.exists():
        _run(uv, "venv", "-q", "--clear", "-p", sys.executable, folder)
    install: list[str | Path] = [uv, "pip", "install", "-q", "-p", python]
    if kind in ("export", "bench") and TORCH_INDEX_URL:
        _run(*install, "--index-url", TORCH_INDEX_URL, pinned("torch"), "torchvision")
    install += settings_of_pip()
    if kind == "serve" and sys.version_info >= FIRST_WITHOUT_NUMPY_1:
        _run(python, "-m", "tools.old_numpy", *install, PYTHONPATH="serving/src")
    if kind != "engines":  # apache-beam needs pillow < 13
        install += ["-c", "constraints.txt"]
    _run(*install, "-r", f"tools/requirements-{kind}.txt")
    if kind == "serve":
        _run(python, "-c", "from clip_serving.server import perf_analyzer; perf_analyzer.prepare()")


def pinned(package: str) -> str:
    """The requirement for `package` in constraints.txt, as torch's index may lack the other packages."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return next(line.split()[0] for line in lines if line.startswith(f"{package}=="))


def _install_uv() -> Path:
    """The path of uv in `.venv`, which also keeps pip: perf_analyzer is downloaded with it."""
    python = ROOT / ".venv/bin/python"
    if not python.exists():
        _run(sys.executable, "-m", "venv", "--clear", ROOT / ".venv")
    _run(python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", UV)
    return ROOT / ".venv/bin/uv"


def settings_of_pip() -> list[str]:
    """pip's indexes, constraint and certificates as options of uv, which reads no pip.conf."""
    command = [str(ROOT / ".venv/bin/python"), "-m", "pip", "config", "list"]
    listed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    settings: dict[str, str] = {}
    for line in sorted(listed, key=lambda line: line.startswith(":env:")):  # a variable wins over a file
        name, _, value = line.partition("=")
        settings[name.rpartition(".")[2]] = ast.literal_eval(value)
    if "cert" in settings:
        os.environ.setdefault("SSL_CERT_FILE", settings["cert"])
    options = [f"--{name}={value}" for name in LIKE_PIP for value in settings.get(name, "").split()]
    return ["--index-strategy=unsafe-best-match", *options] if "extra-index-url" in settings else options


def _run(*command: str | Path, **environment: str) -> None:
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, **environment})


if __name__ == "__main__":
    sys.exit(main())
