"""`clip-perf-analyzer ARG...`: NVIDIA's perf_analyzer, with the libraries that it looks for.

The binary ships in the tritonclient wheels up to 2.57; it is run as it is, with your arguments.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from clip_serving import runtime
from clip_serving.errors import ServerError

_MISSING = (
    "clip-perf-analyzer: the perf_analyzer binary is not in this environment. It ships in the "
    "tritonclient wheels up to 2.57: pip install 'tritonclient[grpc]==2.57.0'"
)


def main() -> int:
    binary = Path(sys.prefix) / "bin" / "perf_analyzer"
    if not os.access(binary, os.X_OK):
        print(_MISSING, file=sys.stderr)
        return 2
    try:
        environment = runtime.prepare().environment()
    except ServerError as error:
        print(f"clip-perf-analyzer: {error}", file=sys.stderr)
        return 2
    os.execve(binary, [str(binary), *sys.argv[1:]], environment)


if __name__ == "__main__":
    sys.exit(main())
