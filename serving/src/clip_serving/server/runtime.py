"""Lays out nvidia-pytriton's tritonserver so that it runs with this interpreter.

The wheel holds one Python-backend stub per Python version. The server expects the right one beside
`libtriton_python.so`, and the stub needs libpython, which Debian's python3 lacks. A folder of the current
environment collects both, once.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from clip_serving import defaults
from clip_serving.errors import ServerError
from clip_serving.files import replacing
from clip_serving.server.debian import unpack_package

_MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
_LIBPYTHON = f"libpython{_MINOR}.so.1.0"


@dataclass(frozen=True)
class Runtime:
    """A tritonserver binary and the files that it needs."""

    tritonserver: Path
    backends: Path
    caches: Path
    libraries: tuple[Path, ...]

    def environment(self) -> dict[str, str]:
        """This process's environment, with our interpreter and the libraries found first."""
        values = dict(os.environ)
        values["PATH"] = os.pathsep.join([str(Path(sys.prefix) / "bin"), values.get("PATH", "")])
        values["LD_LIBRARY_PATH"] = os.pathsep.join(
            [*map(str, self.libraries), *filter(None, [values.get("LD_LIBRARY_PATH")])]
        )
        return {**defaults.ENVIRONMENT, **values}


def prepare() -> Runtime:
    """Finds or makes the layout. Raises ServerError, which says what to install."""
    server, bundled = _wheel()
    home = _home() / f"triton-{metadata.version('nvidia-pytriton')}-py{_MINOR}"
    backend, libraries = home / "backends" / "python", home / "lib"
    for folder in (backend, libraries):
        folder.mkdir(parents=True, exist_ok=True)
    for file in ("libtriton_python.so", "triton_python_backend_utils.py"):
        _link(backend / file, server / "backends" / "python" / file)
    stub = server / "python_backend_stubs" / _MINOR / "triton_python_backend_stub"
    if not stub.is_file():
        raise ServerError(
            f"nvidia-pytriton has no Python-backend stub for Python {_MINOR}. Use Python 3.10 to 3.13"
        )
    _copy(backend / stub.name, stub)
    # perf_analyzer looks for these under the names they had before the wheel was repaired.
    for soname, pattern in (
        ("libcudart.so.12", "libcudart-*.so.12*"),
        ("libb64.so.0d", "libb64-*.so.0d"),
    ):
        for library in bundled.glob(pattern):
            _link(libraries / soname, library)
    _provide_libpython(libraries)
    # The wheel has its own libpython for one version, under another name. Only this interpreter's fits its
    # standard library: Debian's has modules built in that others load.
    for library in bundled.glob(f"libpython3-*.{sys.version_info.minor}.so.1.0"):
        _link(libraries / library.name, libraries / _LIBPYTHON)
    return Runtime(
        server / "bin" / "tritonserver", home / "backends", server / "caches", (libraries, bundled)
    )


def _wheel() -> tuple[Path, Path]:
    try:
        distribution = metadata.distribution("nvidia-pytriton")
    except metadata.PackageNotFoundError:
        raise ServerError(
            "nvidia-pytriton, which contains tritonserver, is not installed. In a clone of clip-triton: "
            "pip install ./client './serving[local]'"
        ) from None
    root = Path(str(distribution.locate_file("")))
    server = root / "pytriton" / "tritonserver"
    binary = server / "bin" / "tritonserver"
    if not os.access(binary, os.X_OK):
        raise ServerError(f"{binary} is missing or not executable. Install nvidia-pytriton again")
    return server, root / "nvidia_pytriton.libs"


def _home() -> Path:
    """A writable folder: the environment's own where possible, else the user's cache."""
    own = Path(sys.prefix) / "share" / "clip-triton"
    try:
        own.mkdir(parents=True, exist_ok=True)
        if os.access(own, os.W_OK):
            return own
    except OSError:
        pass
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "clip-triton"


def _link(link: Path, target: Path) -> None:
    """Makes or renews a symbolic link. Safe if another process does the same."""
    if link.is_symlink() and os.readlink(link) == str(target):
        return
    with replacing(link) as temporary:
        temporary.symlink_to(target)


def _copy(copy: Path, source: Path) -> None:
    """Like `_link`, with a copy: a link would find the wheel's libraries before ours."""
    with replacing(copy) as temporary:
        shutil.copy2(source, temporary)


def _provide_libpython(libraries: Path) -> None:
    target = libraries / _LIBPYTHON
    if target.exists():
        return
    found = _installed_libpython()
    if found is not None:
        _link(target, found)
        return
    try:
        _fetch_libpython(libraries)
    except (OSError, subprocess.CalledProcessError) as error:
        detail = getattr(error, "stderr", None) or str(error)
        raise ServerError(
            f"the Python backend needs {_LIBPYTHON}, which is not part of this Python, and the "
            f"package libpython{_MINOR} could not be downloaded ({detail.strip().splitlines()[-1]}). "
            f"Install it: apt-get install libpython{_MINOR}"
        ) from error


def _installed_libpython() -> Path | None:
    folder = Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib")
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    places = (folder, folder / multiarch, Path(sys.base_prefix) / "lib")
    return next((place / _LIBPYTHON for place in places if (place / _LIBPYTHON).exists()), None)


def _fetch_libpython(libraries: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="clip-triton-") as name:
        tree = unpack_package(f"libpython{_MINOR}", Path(name))
        library = next(tree.rglob(_LIBPYTHON))
        with replacing(libraries / _LIBPYTHON) as temporary:
            temporary.write_bytes(library.read_bytes())
