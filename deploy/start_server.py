"""Starts tritonserver in the container: removes what a killed one left, and restricts the admin protocols.

Usage: start_server.py tritonserver ARGUMENTS

A killed server leaves the Python backend's regions in /dev/shm. A restarted container of a Kubernetes pod
keeps that folder, and photos fail once it is full. The protocols for shared memory, traces, logging and the
model repository are for the holder of CLIP_ADMIN_KEY; without that variable the key is random.

CLIP_TIER=decode or encode serves one part of the repository: clip_image_preprocess alone (and those of models
with a name, clip_image_NAME_preprocess), or the encoders.

Standard library only.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import sys
from pathlib import Path

_SHARED_MEMORY = Path("/dev/shm")
_REPOSITORY, _CONTROL = "--model-repository=", "--model-control-mode="
_DECODES = re.compile("clip_image_([a-z0-9]+_)?preprocess")
_NEEDS_PIXELS = re.compile("clip_image(_(?!encoder$)[a-z0-9]+)*")
"""The models that the encode tier does not serve: the ensembles for photos, and what decodes for them."""
_RESTRICTED = "shared-memory,model-repository,trace,logging"


def main() -> None:
    prefix = f"clip-triton-{socket.gethostname()}-"
    for region in _SHARED_MEMORY.glob(f"{prefix}*"):
        region.unlink(missing_ok=True)
    key = os.environ.pop("CLIP_ADMIN_KEY", "") or secrets.token_hex(16)
    command = [
        *of_tier(sys.argv[1:], os.environ.get("CLIP_TIER", "")),
        f"--backend-config=python,shm-region-prefix-name={prefix}",
        f"--http-restricted-api={_RESTRICTED}:clip-admin={key}",
        f"--grpc-restricted-protocol={_RESTRICTED}:clip-admin={key}",
    ]
    os.execvp(command[0], command)


def of_tier(command: list[str], tier: str) -> list[str]:
    """The command line that loads only the models of a tier; as it is without a tier."""
    if not tier:
        return command
    if tier not in ("decode", "encode"):
        sys.exit(f"start_server.py: CLIP_TIER must be decode, encode or empty, not {tier!r}")
    (repository,) = (word.removeprefix(_REPOSITORY) for word in command if word.startswith(_REPOSITORY))
    models = [folder.parent.name for folder in sorted(Path(repository).glob("*/config.pbtxt"))]
    decodes = tier == "decode"
    served = [
        name
        for name in models
        if (_DECODES.fullmatch(name) if decodes else not _NEEDS_PIXELS.fullmatch(name))
    ]
    if not served:
        sys.exit(f"start_server.py: {repository} has no model of the tier {tier}. Run clip-export first")
    words = [word for word in command if not word.startswith(_CONTROL)]
    return [*words, f"{_CONTROL}explicit", *(f"--load-model={name}" for name in served)]


if __name__ == "__main__":
    main()
