"""Ray nodes, one of them in a network namespace of its own, as if it were another machine."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from testing.processes import running
from testing.waiting import wait_until

_FORWARD = """
import asyncio, sys
async def pump(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()
async def main(host, port, target):
    async def connected(reader, writer):
        there, here = await asyncio.open_connection(*target.split(":"))
        await asyncio.gather(pump(reader, here), pump(there, writer), return_exceptions=True)
    async with await asyncio.start_server(connected, host, int(port)) as server:
        await server.serve_forever()
asyncio.run(main(*sys.argv[1:]))
"""
"""Connections to a host and port go on to an address on loopback."""


def why_no_namespaces() -> str | None:
    """Why this machine cannot have network namespaces; None if it can."""
    try:
        done = subprocess.run(
            ["unshare", "--net", "ip", "link", "add", "type", "veth"], capture_output=True, text=True
        )
    except FileNotFoundError as error:
        return str(error)
    return done.stderr.strip() if done.returncode else None


@dataclass(frozen=True)
class Machine:
    """A network namespace, connected to this one. `inside` is the prefix of commands in it."""

    inside: Sequence[str]
    address: str
    here: str
    """The address of this namespace as seen from there."""


@contextmanager
def second_machine() -> Iterator[Machine]:
    network = f"10.203.{os.getpid() % 256}"
    here, there, link = f"{network}.1", f"{network}.2", f"ray{os.getpid()}"
    with running([_path_of("unshare"), "--net", "sleep", "infinity"]) as process:
        wait_until(lambda: _namespace(process.pid) != _namespace(os.getpid()), "the network namespace")
        inside = [_path_of("nsenter"), "--target", str(process.pid), "--net"]
        _ip(f"link add {link} type veth peer name there netns {process.pid}")
        _ip(f"address add {here}/30 dev {link}")
        _ip(f"link set {link} up")
        for command in (f"address add {there}/30 dev there", "link set there up", "link set lo up"):
            _ip(command, inside)
        yield Machine(inside, there, here)


def _path_of(program: str) -> str:
    return shutil.which(program) or program


def _namespace(pid: int) -> str:
    return os.readlink(f"/proc/{pid}/ns/net")


def _ip(arguments: str, inside: Sequence[str] = ()) -> None:
    subprocess.run([*inside, "ip", *arguments.split()], check=True)


@contextmanager
def forwarded(host: str, port: int, target: str) -> Iterator[str]:
    """An address whose connections go to `target`, which is on loopback."""
    with running([sys.executable, "-c", _FORWARD, host, str(port), target]):
        yield f"{host}:{port}"


@contextmanager
def node(
    *arguments: str, folder: Path, environment: Mapping[str, str], inside: Sequence[str] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """A Ray node that ends with the block, with all its processes."""
    ray = str(Path(sys.executable).with_name("ray"))
    command = [*inside, ray, "start", "--block", "--object-store-memory=80000000", *arguments]
    with (
        (folder / f"node-{len(list(folder.iterdir()))}.log").open("wb") as log,
        running(command, environment=environment, stdout=log, stderr=log) as process,
    ):
        yield process


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to all processes of a node."""
    members = psutil.Process(process.pid).children(recursive=True)
    assert any("raylet" in member.name() for member in members)
    for member in [psutil.Process(process.pid), *members]:
        member.kill()


def answers(address: str) -> bool:
    host, _, port = address.partition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        return False
    return True
