"""Runs clip-export unless the repository already holds that export.

    export_once.py --repository DIR [--preprocess-instances N] [--encoder-instances N]
        [--encoder-precision NAME] -- OPTION...

The options after `--` choose the model: if the last export was made with the same options, by the same
exporter, only the configs are rendered again, so that a change of instances costs no export. Settings
that are not given, or are empty, stay as they are in the repository's deployment.json.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

STAMP = ".exported.json"
_ENCODER = "clip_image_encoder"


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    model = options.model_options
    deployment = [
        f"--{name}={value}"
        for name, value in (
            ("preprocess-instances", options.preprocess_instances),
            ("encoder-instances", options.encoder_instances),
            ("encoder-precision", options.encoder_precision),
        )
        if value
    ]
    where = [f"--repository={options.repository}", *deployment]
    wanted = fingerprint(model)
    known = read_stamp(options.repository)
    if known and known["fingerprint"] == wanted:
        print(f"already exported: {known['model']}, {known['pretrained']}", file=sys.stderr, flush=True)
        return run(options.command, [f"--activate={known['version']}", *where]).returncode
    done = run(options.command, [*where, "--json", *model])
    if done.returncode == 0:
        summary = json.loads(done.stdout)
        stamp = {key: summary[key] for key in ("version", "model", "pretrained", "random_weights")}
        (options.repository / STAMP).write_text(json.dumps({**stamp, "fingerprint": wanted}), "utf-8")
    return done.returncode


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repository", type=Path, required=True, metavar="DIR")
    parser.add_argument("--preprocess-instances", metavar="N")
    parser.add_argument("--encoder-instances", metavar="N")
    parser.add_argument("--encoder-precision", metavar="NAME")
    parser.add_argument("--command", default="clip-export", help="default: %(default)s")
    parser.add_argument("model_options", nargs="*", metavar="OPTION", help="options of clip-export")
    return parser


def run(command: str, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs clip-export and returns its standard output; its messages go to our standard error.

    SIGTERM, which ends a container, is forwarded as SIGINT, after which clip-export cleans up. Ctrl-C in a
    terminal reaches it directly.
    """
    with subprocess.Popen([command, *arguments], stdout=subprocess.PIPE, text=True) as process:
        signal.signal(signal.SIGTERM, lambda *_: process.send_signal(signal.SIGINT))
        signal.signal(signal.SIGINT, lambda *_: None)
        output, _ = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, output)


def fingerprint(model_options: list[str]) -> str:
    """A digest of the options, the files that they name (size and time), and the exporter's code."""
    digest = hashlib.sha256()
    for option in model_options:
        digest.update(f"{option}\n".encode())
        for file in _named_files(option.partition("=")[2] or option):
            state = file.stat()
            digest.update(f"{file} {state.st_size} {state.st_mtime_ns}\n".encode())
    exporter = importlib.util.find_spec("clip_export")
    for folder in (exporter and exporter.submodule_search_locations) or []:
        for source in sorted(Path(folder).glob("*.py")):
            digest.update(source.read_bytes())
    return digest.hexdigest()


def _named_files(value: str) -> list[Path]:
    """A checkpoint file, or the files of a local-dir: model."""
    path = Path(value.removeprefix("local-dir:"))
    if value.startswith("local-dir:") and path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    return [path] if path.is_file() else []


def read_stamp(repository: Path) -> dict[str, Any] | None:
    """The last export's stamp, if its version still exists."""
    try:
        stamp: dict[str, Any] = json.loads((repository / STAMP).read_text(encoding="utf-8"))
        return stamp if (repository / _ENCODER / str(stamp["version"])).is_dir() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


if __name__ == "__main__":
    sys.exit(main())
