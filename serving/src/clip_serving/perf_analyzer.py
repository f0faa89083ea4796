"""`clip-perf-analyzer ARG...`: NVIDIA's perf_analyzer, with the libraries that it looks for.

The binary ships in the tritonclient wheels up to 2.57; it is run as it is, with your arguments.
`clip-perf-input PHOTO...` writes the --input-data file that it wants for photos.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import struct
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


def input_data(photos: list[bytes]) -> str:
    """perf_analyzer's JSON for the `image` input: it wants a BYTES element's length before its bytes."""
    elements = [base64.b64encode(struct.pack("<I", len(data)) + data).decode() for data in photos]
    return json.dumps({"data": [{"image": {"b64": element}} for element in elements]})


def main_input(argv: list[str] | None = None) -> int:
    """`clip-perf-input`: exit status 0, or 2 when a photo cannot be read."""
    parser = argparse.ArgumentParser(
        "clip-perf-input", description="Writes perf_analyzer's --input-data for photos of yours."
    )
    parser.add_argument("photos", nargs="+", type=Path, metavar="PHOTO", help="a photo, or a folder of them")
    parser.add_argument("--out", type=Path, default=Path("photos.json"), help="default: %(default)s")
    options = parser.parse_args(argv)
    try:
        files = [file for path in options.photos for file in _files(path)]
        options.out.write_text(input_data([file.read_bytes() for file in files]), encoding="utf-8")
    except OSError as error:
        print(f"clip-perf-input: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    print(f"{options.out}: {len(files)} photos", file=sys.stderr)
    return 0


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


if __name__ == "__main__":
    sys.exit(main())
