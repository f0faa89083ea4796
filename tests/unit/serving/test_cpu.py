"""What a CPU can is read from the flags that the kernel lists."""

from __future__ import annotations

import pytest

from clip_serving.encoder.cpu import Cpu

_CPUINFO = """\
processor\t: 0
model name\t: A CPU: fast
flags\t\t: fpu sse2 avx2 {flags}

processor\t: 1
model name\t: A CPU: fast
flags\t\t: fpu sse2 avx2 {flags}
"""


@pytest.mark.parametrize(
    ("flags", "has"),
    [
        ("avx512_bf16", True),
        ("amx_tile amx_bf16 amx_int8", True),
        ("avx512f avx512_vnni", False),
        ("avx512_bf16x not_amx_bf16", False),
        ("", False),
    ],
)
def test_either_of_two_flags_means_bf16(flags: str, has: bool) -> None:
    cpu = Cpu.from_cpuinfo(_CPUINFO.format(flags=flags))
    assert cpu.has_bf16 is has
    assert cpu.name == "A CPU: fast"
    assert "avx2" in cpu.flags


def test_a_system_without_cpuinfo_has_nothing() -> None:
    cpu = Cpu.from_cpuinfo("")
    assert not cpu.has_bf16
    assert cpu.name


def test_this_machine_is_read() -> None:
    assert Cpu.here().flags
