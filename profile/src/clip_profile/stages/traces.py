"""Triton's own traces: when each request was queued and computed in each model.

tritonserver takes the name of the trace file only at its start (`--trace-config triton,file=FILE`, which
clip-serve sets); tracing is switched on while it runs, and its settings are restored afterwards.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

_TIMEOUT_S = 10.0
_A_FILE = 10
"""Requests per file: a server that dies loses the requests that it has not written yet."""
_MOST = 100_000
"""Requests that are traced at most, if nothing switches it off again; about 2 KB each."""
_PATIENCE_S = 3.0
"""For the last file: it is written when the last traced request has left the server."""

_SETTINGS = ("trace_level", "trace_rate", "trace_count", "log_frequency")


@dataclass(frozen=True)
class RequestTrace:
    """Seconds of one request at the server, one part after the other without a gap.

    `refused_s` is from its first attempt to the one that was answered, 0 if that was the first. The two
    stages are the time of the batch that the request was in.
    """

    refused_s: float
    before_preprocess_s: float
    preprocess_s: float
    before_embed_s: float
    embed_s: float

    @property
    def total_s(self) -> float:
        waited = self.refused_s + self.before_preprocess_s + self.before_embed_s
        return waited + self.preprocess_s + self.embed_s


@dataclass(frozen=True)
class Attempt:
    """A request that reached the server: moments in ns of the server's monotonic clock, from its start to its
    answer, or only the start if it was refused."""

    request_id: str
    moments: tuple[int, ...]


_Activity = dict[str, Any]
"""What one model did for one request: the records of one id put together, `at` its moments."""


def parse(records: Iterable[dict[str, Any]], steps: Sequence[str]) -> list[Attempt]:
    """All named requests in the records of one file; `steps` are the ensemble's models in their order."""
    found: dict[int, _Activity] = {}
    for record in records:
        one = found.setdefault(record["id"], {"at": {}})
        one |= {name: value for name, value in record.items() if name != "timestamps"}
        one["at"] |= {moment["name"]: moment["ns"] for moment in record.get("timestamps", ())}
    children: dict[int, dict[str, _Activity]] = {}
    for one in found.values():
        if "parent_id" in one:
            children.setdefault(one["parent_id"], {})[one["model_name"]] = one
    return [
        Attempt(one["request_id"], _moments(one, [children.get(number, {}).get(step) for step in steps]))
        for number, one in found.items()
        if one.get("request_id") and "parent_id" not in one and "REQUEST_START" in one["at"]
    ]


def _moments(whole: _Activity, steps: Sequence[_Activity | None]) -> tuple[int, ...]:
    start, first, last = whole["at"]["REQUEST_START"], steps[0], steps[-1]
    # The answer leaves before the encoder's batch is finished, so REQUEST_END comes too late.
    end = whole["at"].get("INFER_RESPONSE_COMPLETE", whole["at"].get("REQUEST_END"))
    if first is None or last is None or end is None:
        return (start,)
    try:
        inner = first["at"]["COMPUTE_START"], last["at"]["REQUEST_START"], last["at"]["COMPUTE_START"]
    except KeyError:  # refused, or answered from a cache
        return (start,)
    return (start, *inner, end)


def by_request(attempts: Iterable[Attempt]) -> dict[str, RequestTrace]:
    """The answered requests by id, without those whose moments are out of order."""
    first: dict[str, int] = {}
    answered: dict[str, Attempt] = {}
    for one in attempts:
        first[one.request_id] = min(one.moments[0], first.get(one.request_id, one.moments[0]))
        if len(one.moments) > 1:
            answered[one.request_id] = one
    found = {}
    for name, one in answered.items():
        moments = (first[name], *one.moments)
        parts = [(b - a) / 1e9 for a, b in pairwise(moments)]
        if min(parts) >= 0:
            found[name] = RequestTrace(*parts)
    return found


class Traces:
    """Traces every request to `model` within the block, on a server of this machine.

    `why_not` says why the server does not trace, or is None. Nothing that the server does raises an error, as
    no measurement depends on traces.
    """

    def __init__(self, client: InferenceServerClient, model: str, *, local: bool) -> None:
        self._client, self._model = client, model
        self._restore: dict[str, Any] | None = None
        self.why_not: str | None = None if local else "the server's trace file is not on this machine"
        self._file: Path | None = None
        self._there: set[Path] = set()

    def __enter__(self) -> Traces:
        if self.why_not is None:
            try:
                self.why_not = self._switch_on()
            except InferenceServerException as error:
                self.why_not = f"the server does not trace: {error.message()}"
        return self

    def __exit__(self, *_: object) -> None:
        if self._restore is not None:
            with suppress(InferenceServerException):  # it may be gone
                self._set(self._restore)

    def _switch_on(self) -> str | None:
        everywhere, here = self._settings(""), self._settings(self._model)
        file = "".join(here.get("trace_file", ()))
        if not file:
            return "the server has no trace file (--trace-config triton,file=FILE)"
        if here.get("trace_mode", ["triton"]) != ["triton"]:
            return "the server sends its traces to OpenTelemetry"
        if here.get("trace_level", ["OFF"]) != ["OFF"]:
            return "another client has already switched tracing on"
        self._file = Path(file)
        if not self._file.parent.is_dir():
            return f"the server's trace file {file} is not on this machine"
        self._there = set(self._files())
        own = any(here.get(name) != everywhere.get(name) for name in _SETTINGS)
        # None restores what holds for all models.
        self._restore = {name: here.get(name) if own else None for name in _SETTINGS}
        on = {"trace_level": ["TIMESTAMPS"], "trace_rate": "1", "trace_count": str(_MOST)}
        self._set({**on, "log_frequency": str(_A_FILE)})
        return None

    def _settings(self, model: str) -> dict[str, list[str]]:
        answer = self._client.get_trace_settings(model, client_timeout=_TIMEOUT_S)
        return {name: list(setting.value) for name, setting in answer.settings.items()}

    def _set(self, settings: dict[str, Any]) -> None:
        self._client.update_trace_settings(self._model, settings=settings, client_timeout=_TIMEOUT_S)

    def _files(self) -> list[Path]:
        assert self._file is not None
        return sorted(self._file.parent.glob(f"{self._file.name}.*"))

    def read(self, wanted: Collection[str], steps: Sequence[str]) -> dict[str, RequestTrace]:
        """After the block: the traces of the request ids that were traced; removes the files."""
        if self._restore is None:
            return {}
        attempts: list[Attempt] = []
        end = time.monotonic() + _PATIENCE_S
        while True:
            for file in self._files():
                records = _records(file) if file not in self._there else None
                if records is not None:
                    attempts += parse(records, steps)
                    with suppress(OSError):  # another user's folder
                        file.unlink()
                    self._there.add(file)
            found = by_request(attempts)
            if found.keys() >= set(wanted) or time.monotonic() > end:
                break
            time.sleep(0.1)
        if wanted and not found:
            self.why_not = f"the server wrote no readable traces next to {self._file}"
        return {name: found[name] for name in wanted if name in found}


def _records(file: Path) -> list[dict[str, Any]] | None:
    """None for a file that is still being written, or that we may not read."""
    try:
        records: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return records
