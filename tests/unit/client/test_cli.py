"""What `clip-embed` makes of its arguments, and how it ends, where no server has a part in it."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from clip_client import EmbeddedObject, Existing, ItemError, ObjectInfo, PhotoResult, SinkError, Stage, cli
from clip_client.arguments import decode
from clip_client.cli import arguments
from clip_client.cli.progress import Progress
from clip_client.cli.report import report
from clip_client.pipeline import Summary
from clip_client.sinks.parquet import ParquetSink
from testing.waiting import PATIENCE_S


def run(*arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """The command; `before` is executed in its process, with its module as `cli`."""
    code = f"import sys\nfrom clip_client import cli\n{before}\nsys.exit(cli.main())"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--concurrency", "0", "must be a whole number of at least 1, not '0'"),
        ("--concurrency", "many", "must be a whole number of at least 1, not 'many'"),
        ("--deadline", "0", "must be a positive number of seconds"),
        ("--deadline", "nan", "must be a positive number of seconds"),
        ("--wait", "-1", "must be a positive number of seconds"),
        ("--wait", "inf", "must be a positive number of seconds"),
        ("--out", "s3://album/out.parquet", "cannot write to s3://album/out.parquet: s3:// is not supported"),
        ("--out", ".", ". is a folder. Give the path of the file to write"),
        ("--out", "a.csv", "a.csv: the output is a Parquet file, and not .csv. End its name in .parquet"),
        ("--source-name", "", "the name is empty"),
    ],
)
def test_an_option_that_makes_no_sense(option: str, value: str, said: str) -> None:
    done = run(".", "--out", "x.parquet", f"{option}={value}")
    assert done.returncode == 2
    assert f"argument {option}: {said}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("option", ["--user-project=p", "--anonymous"])
def test_an_option_for_buckets_is_not_ignored_for_a_folder(option: str, tmp_path: Path) -> None:
    done = run(str(tmp_path), "--out", "x.parquet", option)
    assert done.returncode == 2
    assert f"is not a bucket, and {option.partition('=')[0]} is for buckets" in done.stderr


def test_one_photo_is_reported_in_the_singular_and_without_rounding_errors(
    capsys: pytest.CaptureFixture[str],
) -> None:
    summary = Summary("out.parquet", photos=1, embedded=1, megabytes=0.1 + 0.2, seconds=0.7)
    report(summary, {"load": Stage.of("load", [0.1 + 0.2])}, {}, as_json=True)
    said = capsys.readouterr()
    values = json.loads(said.out)
    assert (values["megabytes"], values["photos_per_second"]) == (0.3, 1.428571)
    assert values["stages"]["load"]["mean_s"] == 0.3
    assert "clip-embed: 1 photo (0.3 MB) in 0.7 s" in said.err
    assert "out.parquet: 1 photo embedded" in said.err


def test_notices_are_counted_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    counts = {"truncated": 3, "single_color": 1}
    report(Summary("out.parquet", photos=9, embedded=9, notices=counts), {}, {}, as_json=True)
    said = capsys.readouterr()
    assert "clip-embed: notices: 1 single_color, 3 truncated\n" in said.err
    assert json.loads(said.out)["notices"] == counts


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def result(number: int, error: ItemError | None = None) -> EmbeddedObject:
    vector = None if error else np.ones(2, np.float32)
    return EmbeddedObject(ObjectInfo(f"{number}.jpg", 1), PhotoResult(vector, error))


def test_progress_has_a_total_and_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with Progress(quiet=False) as progress:
        bar = progress._bar
        bar.start_t -= 10  # it began 10 s ago
        progress.show(result(0))
        assert progress.on_total is not None
        progress.on_total(3, False)
        assert str(bar).startswith("photos: 1 of at least 3 [00:10, ")
        progress.on_total(4, True)
        progress.show(result(1, ItemError("corrupt", "no photo")))
        assert str(bar).startswith("photos: 2 of 4, 50% [00:10, 00:10 left, ")
        assert str(bar).endswith("photos/s, errors=1]")
        for number in range(2, 5):
            progress.show(result(number))
        assert str(bar).startswith("photos: 5 of 5, 100% ")
        bar.refresh()
    drawn, _, last = terminal.getvalue().rpartition("\r")
    assert "photos: 5 of 5" in drawn
    assert last.strip() == "", "the line is cleared before anything else is printed"


@pytest.mark.parametrize(("quiet", "stream"), [(True, Terminal()), (False, io.StringIO())])
def test_progress_that_nobody_watches(
    monkeypatch: pytest.MonkeyPatch, quiet: bool, stream: io.StringIO
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    with Progress(quiet=quiet) as progress:
        assert progress.on_total is None, "it costs a listing"
        progress.show(result(0))
        progress._bar.refresh()
    assert stream.getvalue() == ""


@pytest.mark.parametrize("place", ["source", "option", "error"])
def test_control_characters_do_not_reach_the_terminal(tmp_path: Path, place: str) -> None:
    nasty = "a\x1b[31m\u202e\nclip-embed: all photos embedded"
    if place == "source":
        done = run(str(tmp_path / nasty), "--out", str(tmp_path / "out.parquet"))
    elif place == "option":
        done = run(".", "--out", "out.parquet", "--concurrency", nasty)
    else:
        done = run(".", "--out", str(tmp_path / "o"), before=f"cli._embed = lambda options: 1 / {nasty!r}[0]")
    assert done.returncode == 2
    assert not re.search(r"[\x1b\u202e]", done.stderr)
    if place == "source":
        assert r"a\x1b[31m\u202e\nclip-embed: all" in done.stderr


def test_a_run_that_fails_at_once_draws_no_progress(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SinkError), Progress(quiet=False):
        raise SinkError("out.parquet exists")
    assert capsys.readouterr().err == ""


def test_an_internal_error_is_not_reported_as_failed_photos(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    with closing(ParquetSink(out)) as sink:
        sink.open("gs://album", {}, 2, Existing())
        sink.write(EmbeddedObject(ObjectInfo("a.jpg", 1), PhotoResult(np.ones(2, np.float32))))
        sink.flush()
    done = run(".", "--out", str(out), before="cli._embed = lambda options: 1 / 0")
    assert done.returncode == 2
    assert "ZeroDivisionError" in done.stderr
    assert f"finished rows are kept in {out}.parts: run the same command again" in done.stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["client", "cpu:8001"], "give server, client, or addresses, not both"),
        (["cpu"], "must be server, client or host:port, not 'cpu'"),
    ],
)
def test_a_wrong_place_to_decode_is_a_usage_error(
    given: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main(["photos", "--out", "x.parquet", *(f"--decode={each}" for each in given)])
    assert said in capsys.readouterr().err


def test_where_photos_are_decoded() -> None:
    def parsed(*words: str) -> str | list[str]:
        return decode(arguments.parser().parse_args(words))

    assert parsed() == "server"
    assert parsed("--decode", "client") == "client"
    assert parsed("--decode", "a:1") == "a:1"
    assert parsed("--decode", "a:1", "--decode", "b:1") == ["a:1", "b:1"]
