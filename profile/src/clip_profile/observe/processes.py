"""CPU time and memory of groups of processes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import psutil

from clip_profile.records.measurement import EMBED, PREPROCESS
from clip_serving import defaults
from clip_serving.errors import ServerError

SERVER = "server"
"""The role of tritonserver itself, beside those of its stages' processes."""


class ProcessGroup:
    """Processes that are counted together, with `children` their descendants too, as they come and go.

    Raises psutil.Error for a process that does not exist. One that ends later keeps the CPU time that it was
    last seen with.
    """

    def __init__(self, pids: Sequence[int], *, children: bool = False) -> None:
        self._roots = [psutil.Process(pid) for pid in pids]
        self._children = children
        self._members = dict.fromkeys(self._roots)
        self._cpu_s: dict[psutil.Process, float] = {}

    def __bool__(self) -> bool:
        return bool(self._roots)

    def cpu_s(self) -> float:
        """User and system seconds so far, of every process that was ever seen in the group."""
        if self._children:  # the slow part: it reads all of /proc
            self._members = dict.fromkeys(self._roots)
            for root in self._roots:
                with suppress(psutil.Error):
                    self._members |= dict.fromkeys(root.children(recursive=True))
        for process in self._members:
            with suppress(psutil.Error):
                times = process.cpu_times()
                self._cpu_s[process] = times.user + times.system
        return sum(self._cpu_s.values())

    def rss_mb(self) -> float:
        """The sum of the resident sets of those that the last `cpu_s` saw. A page that two processes share
        counts twice."""
        total = 0
        for process in self._members:
            with suppress(psutil.Error):
                total += process.memory_info().rss
        return total / 2**20


def pids_by_role(server: int, stubs: Sequence[int]) -> dict[str, list[int]]:
    """A tritonserver's processes by stage; a stub's command line names its model's folder.

    Raises ServerError for one that has ended or cannot be seen.
    """
    roles: dict[str, list[int]] = {SERVER: [server], PREPROCESS: [], EMBED: []}
    try:
        for pid in stubs:
            line = " ".join(psutil.Process(pid).cmdline())
            roles[EMBED if f"/{defaults.ENCODER}/" in line else PREPROCESS].append(pid)
    except psutil.Error as error:
        raise ServerError(f"a server process ended during start-up: {error}") from error
    return {role: pids for role, pids in roles.items() if pids}
