"""clip-serve: flags that no server could use are refused before one is started."""

from __future__ import annotations

import pytest

from clip_serving.cli import main
from clip_serving.errors import ServerError
from clip_serving.server import ports


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--grpc-port", "65536", "65536 must be from 0 to 65535"),
        ("--http-port", "-1", "-1 must be from 0 to 65535"),
        ("--metrics-port", "x", "invalid"),
        ("--ready-timeout", "nan", "nan must be a positive number of seconds"),
        ("--ready-timeout", "0", "0 must be a positive number of seconds"),
    ],
)
def test_a_wrong_flag_is_a_usage_error(
    flag: str, value: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([flag, value])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("ports_", [(8001, 8001, 0), (8000, 0, 8000), (0, 8002, 8002)])
def test_a_port_for_two_protocols_is_named(ports_: tuple[int, ...]) -> None:
    (twice,) = {port for port in ports_ if port}
    with pytest.raises(ServerError, match=f"port {twice} is given twice"):
        ports.reserve("127.0.0.1", ports_)
