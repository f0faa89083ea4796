"""`clip-perf-analyzer ARG...`: NVIDIA's perf_analyzer, with the libraries that it looks for.

The binary ships in tritonclient's wheels. It is taken out of one that runs on glibc 2.35, without
installing that wheel (its client wants an old protobuf), and run as it is, with your arguments.
`clip-perf-input PHOTO...` writes the --input-data file that it wants for photos.
"""

from __future__ import annotations

import argparse
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

WHEEL = "tritonclient==2.51.0"
"""The last whose perf_analyzer runs on Debian 12 and Ubuntu 22.04: that of Triton 24.10."""


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
            raise ServerError(f"perf_analyzer comes in the wheel {WHEEL}, which pip could not get: {last}")
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
