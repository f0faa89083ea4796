"""Runs flows: with blocking calls, or with asyncio."""

from __future__ import annotations

import asyncio
from contextlib import closing, suppress
from typing import Any, cast

import grpc

from clip_client.requests.failures import Failure
from clip_client.requests.flow import Call, Flow, T, Wait


def run(flow: Flow[T]) -> T:
    """Runs a flow in this thread; returns its result, or raises its exception."""
    result: Any = None
    with closing(flow):  # it gives back its slot if _perform() is interrupted
        while True:
            try:
                command = flow.send(result)
            except StopIteration as stop:
                return cast("T", stop.value)
            result = _perform(command)


def _perform(command: Wait | Call) -> Any:
    if isinstance(command, Wait):
        return command.event.wait(command.timeout_s)
    try:
        return command.function(command.argument, command.timeout_s)
    except grpc.RpcError as error:
        return Failure.of(error)
    except ValueError as error:
        if _CLOSED not in str(error):
            raise
        return Failure(grpc.StatusCode.CANCELLED, str(error))


_CLOSED = "closed channel"
"""In gRPC's ValueError for a call that begins just after close()."""


async def run_async(flow: Flow[T]) -> T:
    """Like run(), in this task."""
    result: Any = None
    with closing(flow):
        while True:
            try:
                command = flow.send(result)
            except StopIteration as stop:
                return cast("T", stop.value)
            result = await _perform_async(command)


async def _perform_async(command: Wait | Call) -> Any:
    if isinstance(command, Wait):
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(command.event.wait(), command.timeout_s)
        return None
    try:
        return await command.function(command.argument, command.timeout_s)
    except grpc.RpcError as error:
        return Failure.of(error)
    except grpc.aio.UsageError as error:  # a call that begins just after close()
        return Failure(grpc.StatusCode.CANCELLED, str(error))
