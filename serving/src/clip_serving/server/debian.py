"""Unpacks Debian and Ubuntu packages without root and without installing them.

Set-up uses it before any package is installed (tools/old_numpy.py): the standard library only.
"""

from __future__ import annotations

import subprocess
from pathlib import Path


def unpack_package(package: str, work: Path) -> Path:
    """The folder of the files of `package`, downloaded and unpacked in the empty folder `work`.

    Raises OSError on systems without apt, subprocess.CalledProcessError if the package cannot be downloaded.
    """
    try:
        _run(["apt-get", "download", "-q", package], work)
    except subprocess.CalledProcessError:
        # The machine's package lists are empty: fetch private ones, which needs no root.
        state = [f"-oDir::State::Lists={work}/lists", f"-oDir::Cache={work}/cache"]
        (work / "lists" / "partial").mkdir(parents=True)
        (work / "cache" / "archives" / "partial").mkdir(parents=True)
        _run(["apt-get", *state, "-q", "update"], work)
        _run(["apt-get", *state, "-q", "download", package], work)
    (archive,) = work.glob(f"{package}_*.deb")
    _run(["dpkg-deb", "-x", archive.name, "tree"], work)
    return work / "tree"


def _run(command: list[str], cwd: Path) -> None:
    subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True)
