"""Installs numpy 1.26 where PyPI has no wheel of it: `python -m tools.old_numpy UV pip install [OPTION]...`.

The embedded server's Python stub was built against numpy 1, whose last wheels are for Python 3.12. The
sources compile on 3.13 too. The machine needs no compiler: PyPI's ziglang is one, with its own C library.
If Python lacks its headers, as Debian's does, they are taken from Debian's package. The build
takes some minutes, once: uv caches the wheel.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import sysconfig
import tempfile
from importlib import metadata
from pathlib import Path

from clip_serving.server.debian import unpack_package

_NUMPY = "numpy==1.26.4"
_ZIG = "ziglang==0.17.1"
_OPTIONS = (
    "blas=none",
    "lapack=none",
    "disable-optimization=true",  # no SIMD loops: their checks and variants make the build longer
    "optimization=2",
)
_TOOLS = {"CC": "cc", "CXX": "c++", "AR": "ar"}
# zig's linker is LLD but reports "zig ld", which numpy's meson rejects. zig adds sanitizers to
# unoptimized code, and would build their libraries too.
_WRAPPER = """\
#!/bin/sh
case "$*" in *-Wl,--version*) echo "LLD 20.0.0 (compatible with GNU linkers)"; exit ;; esac
exec "{zig}" {tool} {arguments} "$@"
"""


def main() -> int:
    if _is_installed():
        return 0
    print(f"set-up: building {_NUMPY} (once, takes some minutes) ...", file=sys.stderr, flush=True)
    install = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="clip-triton-") as name:
        work = Path(name)
        subprocess.run([*install, "--target", str(work / "zig"), _ZIG], check=True)
        settings = [f"--config-setting=setup-args=-D{option}" for option in _OPTIONS]
        environment = {**os.environ, **_compiler(work)}
        subprocess.run([*install, "--no-binary=numpy", *settings, _NUMPY], check=True, env=environment)
    return 0


def _is_installed() -> bool:
    try:
        return f"numpy=={metadata.version('numpy')}" == _NUMPY
    except metadata.PackageNotFoundError:
        return False


def _compiler(work: Path) -> dict[str, str]:
    """The environment variables that make meson compile with zig, through scripts in `work`."""
    variables = {"ZIG_GLOBAL_CACHE_DIR": str(work / "cache"), "ZIG_LOCAL_CACHE_DIR": str(work / "cache")}
    target = f"{platform.machine()}-linux-gnu"
    includes = [f'-I"{folder}"' for folder in _header_folders(work)]
    for variable, tool in _TOOLS.items():
        arguments = "" if tool == "ar" else " ".join(["-target", target, "-fno-sanitize=all", *includes])
        script = work / tool
        script.write_text(_WRAPPER.format(zig=work / "zig/ziglang/zig", tool=tool, arguments=arguments))
        script.chmod(0o755)
        variables[variable] = str(script)
    return variables


def _header_folders(work: Path) -> list[Path]:
    """The folders of Python.h in Debian's package; empty where this Python has its own headers."""
    if (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return []
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    place = work / "headers"
    place.mkdir()
    tree = unpack_package(f"libpython{minor}-dev", place)
    return [tree / "usr/include" / f"python{minor}", tree / "usr/include"]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (subprocess.CalledProcessError, OSError) as error:
        sys.exit(f"cannot build {_NUMPY}: {error}. Python 3.10 to 3.12 needs no build.")
