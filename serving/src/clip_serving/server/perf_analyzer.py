"""`clip-perf-analyzer ARG...`: NVIDIA's perf_analyzer, with the libraries that it needs.

The binary is extracted from a wheel of tritonclient that runs on glibc 2.35, and run with your arguments. The
wheel is not installed, because its client needs an old protobuf. `clip-perf-input PHOTO...` writes the
--input-data file for your photos.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from clip_serving.errors import ServerError
from clip_serving.files import replacing
from clip_serving.server import runtime
from clip_serving.terminal import Parser, printable

WHEEL = "tritonclient==2.51.0"
"""The last release whose perf_analyzer runs on Debian 12 and Ubuntu 22.04; it belongs to Triton 24.10."""


def prepare() -> Path:
    """The binary's path; fetched once into the environment. Raises ServerError."""
    binary = runtime.prepare().libraries[-1].parent / "bin" / "perf_analyzer"
    if binary.exists():
        return binary
    binary.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=binary.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "-d", folder, WHEEL]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode != 0 or not wheels:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ServerError(f"pip could not download {WHEEL}, whose wheel contains perf_analyzer: {last}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            (member,) = [name for name in wheel.namelist() if name.endswith("/bin/perf_analyzer")]
            fetched = wheel.extract(member, folder)
        with replacing(binary) as temporary:
            shutil.copyfile(fetched, temporary)
            temporary.chmod(0o755)
    return binary


def main() -> int:
    try:
        binary = prepare()
        environment = runtime.prepare().environment()
    except ServerError as error:
        print(f"clip-perf-analyzer: {printable(str(error))}", file=sys.stderr)
        return 2
    os.execve(binary, [str(binary), *sys.argv[1:]], environment)


def input_data(photos: list[bytes]) -> str:
    """perf_analyzer's JSON for the `image` input: each BYTES element starts with its length."""
    elements = [base64.b64encode(struct.pack("<I", len(data)) + data).decode() for data in photos]
    return json.dumps({"data": [{"image": {"b64": element}} for element in elements]})


def main_input(argv: list[str] | None = None) -> int:
    """`clip-perf-input`: exit status 0, or 2 when a photo cannot be read."""
    parser = Parser(
        "clip-perf-input", description="Writes perf_analyzer's --input-data file for your photos."
    )
    parser.add_argument("photos", nargs="+", type=Path, metavar="PHOTO", help="a photo, or a folder of them")
    parser.add_argument("--out", type=Path, default=Path("photos.json"), help="default: %(default)s")
    options = parser.parse_args(argv)
    try:
        files = [file for path in options.photos for file in _files(path)]
        options.out.write_text(input_data([file.read_bytes() for file in files]), encoding="utf-8")
    except OSError as error:
        print(printable(f"clip-perf-input: {error.filename}: {error.strerror}"), file=sys.stderr)
        return 2
    print(printable(f"photos written to {options.out}: {len(files)}"), file=sys.stderr)
    return 0


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


if __name__ == "__main__":
    sys.exit(main())
