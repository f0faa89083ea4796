"""tritonserver's log, one run after another: why a model did not load, and which encoder is in use."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import IO

from clip_serving.errors import ServerError

# "E1124 10:00:00.000000 4242 model_lifecycle.cc:642] ..." or the same in quotes.
_PREFIX = re.compile(r'^[EWIF]\d{4} [\d:.]+ \d+ [\w.]+:\d+\] "?')
_FAILED = re.compile(r"failed to load '(?P<model>\w+)' version (?P<version>\d+): (?P<cause>.*)", re.S)

_RUN = "=== clip-serve starts tritonserver, "
_ENCODER = re.compile(r"the CPU encoder (?:of (?P<ensemble>\w+) )?serves (?P<encoder>.*)")


def begin_run(log: Path) -> IO[bytes]:
    """The log, opened to append a run to it: the lines from before a crash stay.

    Raises ServerError if the file cannot be written.
    """
    try:
        file = log.open("ab")
    except OSError as error:
        raise ServerError(f"cannot write tritonserver's log {log}: {error.strerror}") from error
    file.write(f"{_RUN}{datetime.now().astimezone().isoformat(timespec='seconds')}\n".encode())
    file.flush()
    return file


def announcement(encoder: str, ensemble: str = "") -> str:
    """The line with which an encoder describes itself in the log; `announced` reads it.

    `ensemble` is that of a set of models with a name.
    """
    return f"the CPU encoder {f'of {ensemble} ' if ensemble else ''}serves {encoder}"


def announced(log: Path) -> str | None:
    """The description that the encoder of the last run logged; None if there is none, as on a GPU.

    Of several encoders, one after the other.
    """
    found = {
        match["ensemble"] or "": match["encoder"].rstrip('"') for match in _ENCODER.finditer(_last_run(log))
    }
    texts = [f"{ensemble}: {encoder}" if ensemble else encoder for ensemble, encoder in sorted(found.items())]
    return "; ".join(texts) or None


def explain(log: Path) -> str:
    """Why the last run did not start, in a sentence or two; the end of the log if that is unclear."""
    text = _last_run(log)
    failures = {
        match["model"]: f"The model {match['model']} (version {match['version']}) could not be "
        f"loaded: {_shorten(match['cause'])}"
        for entry in _entries(text)
        if (match := _FAILED.search(entry))
    }
    if failures:
        return "\n".join(failures.values())
    if crash := crashed(log):
        return f"tritonserver crashed: {crash}"
    errors = [_PREFIX.sub("", entry) for entry in _entries(text) if entry.startswith("E")]
    if errors:
        return _shorten(errors[-1])
    if "\nUsage: tritonserver" in text:
        return f"tritonserver rejected its command line: {text.splitlines()[0]}"
    tail = "\n".join(text.splitlines()[-8:])
    return f"tritonserver ended and logged no error. The end of its log:\n{tail}"


def crashed(log: Path) -> str | None:
    """The C++ exception that ended the last run; None if there was none."""
    found = re.search(r"^terminate called after throwing an instance of '([^']+)'", _last_run(log), re.M)
    return found[1] if found else None


def taken_port(log: Path) -> str | None:
    """Triton's words if another process listened on a port of the last run; None if none did."""
    found = re.search(r"failed to start \w+ service: [^\"\n]*already in use", _last_run(log))
    return found[0] if found else None


def _last_run(log: Path) -> str:
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    _, begin, run = text.rpartition(_RUN)
    return run.partition("\n")[2] if begin else text


def _entries(text: str) -> list[str]:
    """The log's records. A record can have many lines, such as a Python traceback."""
    records: list[str] = []
    for line in text.splitlines():
        if _PREFIX.match(line) or not records:
            records.append(line)
        else:
            records[-1] += "\n" + line
    return records


def _shorten(cause: str) -> str:
    """The message without the traceback: our own errors are complete without it."""
    # tritonserver escapes the newlines of a message in quotes.
    lines = [line.strip().rstrip('"') for line in cause.replace("\\n", "\n").strip().splitlines()]
    kept: list[str] = []
    for line in lines:
        if line in ("", "At:") or line.startswith(("File ", "/", "+--", "Traceback")):
            break
        kept.append(line)
    return re.sub(r"^(Internal|Invalid argument|Not found): ", "", " ".join(kept or lines[:1]))
