"""Makes a wheel of numpy 1.26 for a Python that PyPI has none for: `python -m tools.old_numpy DIR`.

The embedded server's Python stub was built against numpy 1, whose last wheels are for Python 3.12; its
sources compile on 3.13 too. No compiler is asked for: PyPI's ziglang is one, with its own C library,
and where Python came without its headers (Debian's), they are taken from Debian's package. Takes some
minutes, once; a wheel that is there already is kept.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from clip_serving.server.runtime import download_debian_package

_NUMPY = "numpy==1.26.4"
_ZIG = "ziglang==0.17.1"
_OPTIONS = (
    "blas=none",
    "lapack=none",
    "disable-optimization=true",  # no hand-vectorised loops: their checks and variants lengthen the build
    "optimization=2",
)
_TOOLS = {"CC": "cc", "CXX": "c++", "AR": "ar"}
# zig says "zig ld", which numpy's meson does not know for the LLD that it is; and its libraries would
# be built once more for the sanitizers that it adds to unoptimised code.
_WRAPPER = """\
#!/bin/sh
case "$*" in *-Wl,--version*) echo "LLD 20.0.0 (compatible with GNU linkers)"; exit ;; esac
exec "{zig}" {tool} {arguments} "$@"
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the wheel goes; its path is printed")
    folder: Path = parser.parse_args().folder
    if not _wheels(folder):
        print(f"set-up: building {_NUMPY}: some minutes, once ...", file=sys.stderr, flush=True)
        _build(folder)
    (wheel,) = _wheels(folder)
    print(wheel)
    return 0


def _wheels(folder: Path) -> list[Path]:
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    return list(folder.glob(f"{_NUMPY.replace('==', '-')}-{tag}-*.whl"))


def _build(folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="clip-triton-") as name:
        work = Path(name)
        _pip("install", "--target", str(work / "zig"), _ZIG)
        environment = {
            **os.environ,
            **_compiler(work, _header_folders(work)),
            "ZIG_GLOBAL_CACHE_DIR": str(work / "cache"),
            "ZIG_LOCAL_CACHE_DIR": str(work / "cache"),
        }
        settings = [f"-Csetup-args=-D{option}" for option in _OPTIONS]
        _pip("wheel", "--no-deps", "-w", str(folder), *settings, _NUMPY, env=environment)


def _compiler(work: Path, headers: list[Path]) -> dict[str, str]:
    """Scripts that call zig, as the variables that meson asks for them."""
    variables = {}
    arguments = " ".join(["-target x86_64-linux-gnu -fno-sanitize=all", *(f'-I"{path}"' for path in headers)])
    for variable, tool in _TOOLS.items():
        script = work / tool
        own = "" if tool == "ar" else arguments
        script.write_text(_WRAPPER.format(zig=work / "zig/ziglang/zig", tool=tool, arguments=own))
        script.chmod(0o755)
        variables[variable] = str(script)
    return variables


def _header_folders(work: Path) -> list[Path]:
    """Where Python.h is to be had, if not where this Python says: nowhere else, or Debian's package."""
    own = Path(sysconfig.get_path("include"))
    if (own / "Python.h").is_file():
        return []
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    place = work / "headers"
    place.mkdir()
    tree = download_debian_package(f"libpython{minor}-dev", place)
    return [tree / "usr/include" / f"python{minor}", tree / "usr/include"]


def _pip(*arguments: str, env: dict[str, str] | None = None) -> None:
    command = [sys.executable, "-m", "pip", *arguments, "-q", "--disable-pip-version-check"]
    subprocess.run(command, check=True, env=env, stdout=sys.stderr)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (subprocess.CalledProcessError, OSError) as error:
        sys.exit(f"numpy could not be built: {error}. Python 3.10 to 3.12 needs no such build.")
