"""The arithmetic of `clip-batch estimate`."""

from __future__ import annotations

import json

import pytest

from clip_batch.cli import main
from clip_batch.estimate import Prices, Workload, estimate

_PRICES = Prices(vcpu_hour=0.05, gpu_hour=1, reads_10k=0.004, egress_gb=0.01, storage_gb_month=0.02)


def test_a_million_photos_in_a_day() -> None:
    found = estimate(Workload(1_000_000, days=1, megabytes=2, cpu_ms=36, gpu_rate=1000), _PRICES)
    assert found.photos_per_s == pytest.approx(11.574, rel=1e-4)
    assert found.vcpus == pytest.approx(11.574 * 0.036, rel=1e-4)
    assert found.vcpus_per_gpu == 36
    costs = {item.name: item.cost for item in found.items}
    assert costs == pytest.approx(
        {"decode": 0.5, "embed": 1 / 3.6, "read": 0.4, "egress": 20, "vectors": 0.04096}
    )
    assert found.cost == pytest.approx(0.5 + 1 / 3.6 + 0.4 + 20), "storage is paid per month"


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["estimate", "--photos", "2000000", "--cpu-ms", "10", "--gpu-rate", "500"]
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["vcpus_per_gpu"] == 5
    assert found["per_million"] == pytest.approx(found["cost"] / 2)
    assert main(arguments) == 0
    assert "One GPU needs 5 vCPUs to stay busy" in capsys.readouterr().out
    assert main(["estimate", "--photos", "1000"]) == 0
    assert "0.011 vCPU hours: <0.001 vCPUs" in capsys.readouterr().out, "a small need is not none"


def test_numbers_are_written_in_digits(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["estimate", "--photos", "1e9"])
    assert "must be a whole number of at least 1, not '1e9'" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["-1", "nan", "inf"])
@pytest.mark.parametrize(
    ("command", "option", "message"),
    [
        ("estimate --photos 1", "--gpu-rate", "must be a positive number\n"),
        ("estimate --photos 1", "--price-vcpu-hour", "must be 0 or more"),
        ("status OUT", "--price-per-hour", "must be 0 or more"),
        ("stale OUT", "--price-per-hour", "must be 0 or more"),
        ("stale OUT", "--rate", "must be a positive number\n"),
    ],
)
def test_prices_and_rates_are_finite(
    command: str, option: str, value: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*command.split(), f"{option}={value}"])
    assert message in capsys.readouterr().err
