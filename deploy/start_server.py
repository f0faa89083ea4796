"""Starts tritonserver in the container: removes what a killed one left, and restricts the admin protocols.

Usage: start_server.py tritonserver ARGUMENTS

A killed server leaves the Python backend's regions in /dev/shm. A restarted container of a Kubernetes pod
keeps that folder, and photos fail once it is full. The protocols for shared memory, traces, logging and the
model repository are for the holder of CLIP_ADMIN_KEY; without that variable the key is random.

Standard library only.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
from pathlib import Path

_SHARED_MEMORY = Path("/dev/shm")
_RESTRICTED = "shared-memory,model-repository,trace,logging"


def main() -> None:
    prefix = f"clip-triton-{socket.gethostname()}-"
    for region in _SHARED_MEMORY.glob(f"{prefix}*"):
        region.unlink(missing_ok=True)
    key = os.environ.pop("CLIP_ADMIN_KEY", "") or secrets.token_hex(16)
    command = [
        *sys.argv[1:],
        f"--backend-config=python,shm-region-prefix-name={prefix}",
        f"--http-restricted-api={_RESTRICTED}:clip-admin={key}",
        f"--grpc-restricted-protocol={_RESTRICTED}:clip-admin={key}",
    ]
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
