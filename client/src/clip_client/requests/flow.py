"""Flows: what a client does, written once, as generators without I/O, for ClipClient and AsyncClipClient.

A flow yields commands (Wait, Call), is sent each command's result, and returns its own; drivers.py runs it
with threads or with asyncio.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from clip_client.requests.slots import Event


@dataclass(frozen=True)
class Wait:
    """Wait until `event` is set, for at most `timeout_s`: for a slot, or between two tries until close()."""

    event: Event
    timeout_s: float


@dataclass(frozen=True)
class Call:
    """Call `function(argument, timeout_s)` of the transport. The result is its answer, or a Failure."""

    function: Callable[[Any, float], Any]
    argument: Any
    timeout_s: float


T = TypeVar("T")
Flow = Generator[Wait | Call, Any, T]
