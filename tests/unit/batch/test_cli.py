"""The command clip-batch: what it prints and how it ends."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from clip_batch.cli import OVER_BUDGET, _parser, main
from clip_batch.commands.arguments import in_bytes
from clip_batch.engines.base import ClientOptions
from clip_client import ClipClient
from tests.unit.batch.jobs import EmbedderTransport, folder_of
from tests.unit.client.servers import REFUSED


@pytest.fixture
def transport(monkeypatch: pytest.MonkeyPatch) -> EmbedderTransport:
    """What every command of a test connects to."""
    made = EmbedderTransport()

    def connect(options: ClientOptions) -> ClipClient:
        return ClipClient(transport=made, concurrency=options.concurrency, deadline_s=options.deadline_s)

    monkeypatch.setattr(ClientOptions, "open", connect)
    return made


@pytest.fixture
def out(tmp_path: Path, transport: EmbedderTransport) -> str:
    """A job of ten photos and one bad file, planned."""
    del transport
    photos = folder_of(tmp_path / "photos", {f"{number}.jpg": b"photo %d" % number for number in range(10)})
    folder_of(photos, {"bad.jpg": b"bad"})
    assert main(["plan", str(photos), "--out", str(tmp_path / "out"), "--partition-size", "4"]) == 0
    return str(tmp_path / "out")


def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_a_job_from_its_plan_to_its_compacted_output(out: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", out, "--json"]) == 1, "a photo failed"
    summary = printed(capsys)
    assert (summary["partitions"], summary["embedded"], summary["failed"]) == (3, 10, {"corrupt": 1})
    assert main(["run", out, "--json"]) == 0
    assert printed(capsys)["partitions"] == 0
    assert main(["status", out]) == 0
    assert "3 of 3 done" in capsys.readouterr().out
    assert main(["status", out, "--json", "--price-per-hour", "2"]) == 0
    assert printed(capsys)["cost"]["per_million"] > 0
    assert main(["retry", out, "--failed", "corrupt"]) == 0
    assert "plan 2: 1 object in 1 partition, to" in capsys.readouterr().err
    assert main(["verify", out]) == 1, "the retry has not run"
    assert main(["run", out]) == 1
    assert main(["compact", out, "--json"]) == 0
    assert printed(capsys)["superseded"] == 1
    assert main(["verify", out, "--json"]) == 0
    assert printed(capsys)["ok"] is True
    assert main(["stale", out]) == 0
    assert "10 photos with vectors of the server's model" in capsys.readouterr().err


def test_what_a_run_says_about_failures(
    out: str, transport: EmbedderTransport, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", out]) == 1
    said = capsys.readouterr().err
    assert "failed: 1 corrupt\n" in said
    assert f"{out}/errors has the rows of failed objects" in said
    assert "clip-batch retry" not in said, "a corrupt file stays corrupt"
    assert main(["retry", out]) == 0
    assert "nothing to retry" in capsys.readouterr().err
    transport._is_broken = lambda _: True
    folder_of(Path(out).parent / "photos", {"new.jpg": b"new"})
    assert main(["plan", str(Path(out).parent / "photos"), "--out", out]) == 0
    assert main(["run", out]) == 1
    assert f"Plan their objects again with: clip-batch retry {out}\n" in capsys.readouterr().err


def test_pruned_objects_are_no_longer_called_gone(out: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", out]) == 1
    photos = Path(out).parent / "photos"
    (photos / "3.jpg").unlink()
    assert main(["plan", str(photos), "--out", out, "--prune"]) == 0
    assert "1 object no longer in the sources: compact removes their rows" in capsys.readouterr().err
    assert main(["status", out]) == 0
    assert "gone        1 object" in capsys.readouterr().out
    assert main(["run", out, "--partition", "0"]) == 2
    assert "plan 2 has no partition 0: it has 0, numbered from 0" in capsys.readouterr().err
    assert main(["compact", out]) == 0
    assert main(["status", out]) == 0
    assert "gone" not in capsys.readouterr().out


@pytest.mark.parametrize("command", ["run", "plan", "status", "verify", "compact", "retry"])
def test_an_interrupted_command_says_what_is_kept(
    out: str, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("clip_batch.dataset.Dataset.read", interrupt)
    arguments = [command, *([out, "--out"] if command == "plan" else []), out]
    capsys.readouterr()
    assert main(arguments) == 130
    kept = ": finished partitions are kept" if command == "run" else ""
    said = f"clip-batch: stopped{kept}. Run the same command again to continue\n"
    assert capsys.readouterr().err == said


def test_nothing_to_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["plan", str(tmp_path / "empty"), "--out", str(tmp_path / "out")]) == 0
    assert f"nothing to embed: no photos in {tmp_path}/empty\n" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 bytes"), (999, "999 bytes"), (2_130_000, "2.13 MB"), (10**16, "10,000.0 TB")]
)
def test_sizes_are_in_a_unit_that_suits_them(size: int, text: str) -> None:
    assert in_bytes(size) == text


def test_one_partition(out: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["run", out, "--partition", "1", "--json"]) == 0
    assert printed(capsys)["objects"] == 4
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "2")
    assert main(["run", out, "--json"]) == 0, "a pod that recorded a failed photo has done its work"
    assert printed(capsys)["failed"] == {"corrupt": 1}
    assert main(["run", out, "--partition", "3"]) == 2
    assert "plan 1 has no partition 3" in capsys.readouterr().err


def test_too_many_failures(out: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", out, "--max-failed", "0", "--workers", "1"]) == OVER_BUDGET
    said = capsys.readouterr().err
    assert "1 of" in said
    assert "--max-failed 0" in said
    assert "Finished partitions are kept" in said
    assert main(["run", out, "--max-failed-share", "0.5"]) == 1


def test_a_lost_server(out: str, transport: EmbedderTransport, capsys: pytest.CaptureFixture[str]) -> None:
    transport._outcome = lambda _: REFUSED
    assert main(["run", out, "--deadline", "0.2"]) == 2
    assert "error: " in capsys.readouterr().err
    transport._outcome = lambda _: None
    assert main(["run", out]) == 1


def test_errors_name_the_cause(out: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command, said in (
        (["run", str(tmp_path / "none")], "has no plan. Make one with: clip-batch plan"),
        (["run", out, "--plan", "7"], "has no plan 7"),
        (["plan", str(tmp_path / "none"), "--out", out], "does not exist"),
        (["plan", str(tmp_path), "--out", "ftp://x"], "ftp:// is not supported"),
        (["plan", str(tmp_path / "photos"), "--out", out, "--replace-model"], "needs the --url"),
        (["plan", out, str(tmp_path), "--out", out, "--source-name", "x"], "stands for one source"),
    ):
        assert main(command) == 2
        assert said in capsys.readouterr().err
    for command in (
        ["retry", out, "--failed", "corupt"],
        ["run", out, "--max-failed-share", "2"],
        ["run", out, "--max-failed=-1"],
    ):
        with pytest.raises(SystemExit, match="2"):
            main(command)


@pytest.mark.parametrize(
    "command", ["plan", "run", "status", "verify", "retry", "compact", "stale", "estimate"]
)
def test_the_help_of_each_command_ends_with_an_example(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    examples = capsys.readouterr().out.rpartition("example:\n")[2].splitlines()
    for example in examples:
        name, *arguments = shlex.split(example)
        assert (name, arguments[0]) == ("clip-batch", command)
        assert _parser().parse_args(arguments).command
    assert examples


@pytest.mark.parametrize("command", ["run", "status", "verify", "retry", "compact", "stale"])
def test_a_mistyped_output_is_not_an_empty_job(
    tmp_path: Path, transport: EmbedderTransport, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    del transport
    assert main([command, str(tmp_path / "none")]) == 2
    assert "has no plan. Make one with: clip-batch plan" in capsys.readouterr().err


@pytest.mark.parametrize("index", ["x", "-1", "\u00b2", "1.0"])
def test_an_index_that_is_no_number_does_not_run_all_partitions(
    out: str, index: str, transport: EmbedderTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOB_COMPLETION_INDEX", index)
    with pytest.raises(SystemExit, match="2"):
        main(["run", out])
    assert not transport.sent
    assert main(["status", out]) == 0, "other commands take no index"
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "")
    assert main(["run", out]) == 1, "all partitions; bad.jpg failed"


def test_an_unexpected_error_is_not_taken_for_a_result(
    out: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise errors.pop()

    errors: list[BaseException] = [KeyboardInterrupt(), RuntimeError("a bug")]
    monkeypatch.setattr("clip_batch.commands.output.verify", fail)
    assert main(["verify", out]) == 2
    assert "a bug" in capsys.readouterr().err
    assert main(["verify", out]) == 130


def test_a_missing_ray_names_the_extra(
    out: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["run", out, "--engine", "ray"]) == 2
    assert "pip install './batch[ray]'" in capsys.readouterr().err
