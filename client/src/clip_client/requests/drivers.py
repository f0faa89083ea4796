"""Runs the flows of retry.py: with blocking calls, or with asyncio."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import grpc

from clip_client.requests.failures import Failure
from clip_client.requests.retry import Call, Flow, T, Wait


def run(flow: Flow[T]) -> T:
    """Runs a flow in this thread; returns its result, or raises its exception."""
    result: Any = None
    try:
        while True:
            try:
                command = flow.send(result)
            except StopIteration as stop:
                value: T = stop.value
                return value
            result = _perform(command)
    finally:
        flow.close()  # gives back its slot if _perform() was interrupted


def _perform(command: Wait | Call) -> Any:
    if isinstance(command, Wait):
        return command.event.wait(command.timeout_s)
    try:
        return command.function(command.argument, command.timeout_s)
    except grpc.RpcError as error:
        return Failure.of(error)


async def run_async(flow: Flow[T]) -> T:
    """As run(), in this task."""
    result: Any = None
    try:
        while True:
            try:
                command = flow.send(result)
            except StopIteration as stop:
                value: T = stop.value
                return value
            result = await _perform_async(command)
    finally:
        flow.close()


async def _perform_async(command: Wait | Call) -> Any:
    if isinstance(command, Wait):
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(command.event.wait(), command.timeout_s)
        return None
    try:
        return await command.function(command.argument, command.timeout_s)
    except grpc.RpcError as error:
        return Failure.of(error)
