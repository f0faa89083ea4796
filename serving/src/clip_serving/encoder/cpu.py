"""This machine's CPU and its instructions."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
"""With either flag, bfloat16 products are single instructions; without, they are emulated in float32."""


@dataclass(frozen=True)
class Cpu:
    """A CPU's name and the `flags` of /proc/cpuinfo."""

    name: str
    flags: frozenset[str]

    @classmethod
    def here(cls) -> Cpu:
        try:
            text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        except OSError:
            text = ""
        return cls.from_cpuinfo(text)

    @classmethod
    def from_cpuinfo(cls, text: str) -> Cpu:
        """Parses /proc/cpuinfo; fields that it lacks are empty."""
        fields = {key.strip(): value.strip() for key, _, value in map(_split, text.splitlines())}
        name = fields.get("model name") or platform.processor() or os.uname().machine
        return cls(name, frozenset(fields.get("flags", "").split()))

    @property
    def has_bf16(self) -> bool:
        return bool(self.flags & BF16_FLAGS)


def _split(line: str) -> tuple[str, str, str]:
    return line.partition(":")
