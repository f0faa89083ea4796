"""Makes one of the project's environments: `python3 tools/environment.py DIR serve|export|bench`.

Runs with the system's Python and nothing else. The stamp `.ready` is written last, so a broken
set-up is begun again.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {
    "serve": [
        *("-e", "preprocess[heic]"),
        *("-e", "client[parquet]"),
        *("-e", "serving[local]"),
        *("-e", "profile"),
        "-r",
        "tools/requirements-dev.txt",
    ],
    "export": [
        *("-e", "preprocess[heic]"),
        *("-e", "client"),
        *("-e", "serving[render]"),
        *("-e", "export"),
        "-r",
        "tools/requirements-golden.txt",
    ],
    # What we are compared with, apart from our own environment: none of ours is in it.
    "bench": ["-r", "benchmarks/origin/requirements.txt", "-r", "benchmarks/litserve/requirements.txt"],
}
SUPPORTED = ((3, 10), (3, 13))
NO_OLD_NUMPY = (3, 13)  # from here on PyPI has no wheel of numpy 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("kind", choices=PACKAGES)
    options = parser.parse_args()
    if not SUPPORTED[0] <= sys.version_info[:2] <= SUPPORTED[1]:
        wanted = " to ".join(".".join(map(str, version)) for version in SUPPORTED)
        sys.exit(f"Python {sys.version.split()[0]} does not fit: use PYTHON=python3.x of {wanted}")
    folder = (ROOT / options.folder).resolve()
    stamp = folder / ".ready"
    stamp.unlink(missing_ok=True)
    try:
        _make(folder, options.kind)
    except subprocess.CalledProcessError as error:
        print(f"set-up failed: {' '.join(error.cmd)}", file=sys.stderr)
        return error.returncode
    stamp.touch()
    return 0


def _make(folder: Path, kind: str) -> None:
    python = folder / "bin" / "python"
    if not python.exists():
        shutil.rmtree(folder, ignore_errors=True)
        print(f"set-up: making {folder.name}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    packages = list(PACKAGES[kind])
    if kind == "serve" and sys.version_info >= NO_OLD_NUMPY:
        packages.append(_old_numpy(python))
    note = ", torch among it: some GB, once" if kind in ("export", "bench") else ""
    print(f"set-up: installing the packages of {folder.name}{note} ...", flush=True)
    _pip_install(python, "-c", "constraints.txt", *packages)
    if kind == "serve":
        subprocess.run(
            [str(python), "-c", "from clip_serving.server import perf_analyzer; perf_analyzer.prepare()"],
            check=True,
        )


def _old_numpy(python: Path) -> str:
    """The wheel of a numpy that the embedded server can use, built if need be."""
    _pip_install(python, "--no-deps", "-e", "preprocess", "-e", "serving")
    command = [str(python), "-m", "tools.old_numpy", "build/wheels"]
    return subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout.strip()


def _pip_install(python: Path, *arguments: str) -> None:
    command = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True, cwd=ROOT)


if __name__ == "__main__":
    sys.exit(main())
