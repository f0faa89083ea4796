"""What `clip-embed` prints at the end of a run: sentences on standard error, one line of JSON on request."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from typing import Any

from clip_client.pipeline import Summary
from clip_client.terminal import printable
from clip_client.timings import Stage, table


def report(summary: Summary, stages: dict[str, Stage], servers: dict[str, int], *, as_json: bool) -> None:
    """`servers` are the requests that each server has answered, by address."""
    if as_json:
        values = {**dataclasses.asdict(summary), "photos_per_second": summary.photos_per_second}
        if stages:
            values["stages"] = {name: dataclasses.asdict(stage) for name, stage in stages.items()}
        values["servers"] = servers
        print(json.dumps(rounded(values)))
    skipped = f", {summary.skipped} already done" if summary.skipped else ""
    say(
        f"{'stopped: ' if summary.interrupted else ''}{_count(summary.photos, 'photo')} "
        f"({summary.megabytes:.1f} MB) "
        f"in {summary.seconds:.1f} s, {summary.photos_per_second:.1f} photos/s{skipped}"
    )
    for line in _places(summary):
        say(line)
    if len(servers) > 1:
        answered = ", ".join(f"{url} {count:,}" for url, count in servers.items())
        say(f"requests answered: {answered}")
    if summary.notices:
        notices = ", ".join(f"{count} {code}" for code, count in sorted(summary.notices.items()))
        say(f"notices: {notices}")
    for line in _remarks(summary):
        say(line)
    if stages:
        print(table(stages), file=sys.stderr)


def _places(summary: Summary) -> Iterator[str]:
    """Where the rows are."""
    failed = sum(summary.failed.values())
    codes = ", ".join(f"{count} {code}" for code, count in sorted(summary.failed.items()))
    if not summary.interrupted:
        yield f"{summary.out}: {_count(summary.embedded, 'photo')} embedded"
        if failed:
            yield f"{summary.errors or summary.out}: {_count(failed, 'photo')} failed: {codes}"
    elif total := summary.embedded + failed:
        text = f"{summary.kept_in}: {_count(total, 'row')}, {summary.embedded} embedded"
        yield f"{text}; failed: {codes}" if failed else text


def _remarks(summary: Summary) -> Iterator[str]:
    """What is special about the rows of earlier runs."""
    if summary.assumed:
        rows = _count(summary.assumed, "row does", "rows do")
        yield f"{rows} not name a source, as files of version 0.1; taken as rows of this one"
    if summary.not_retried:
        photos = _count(summary.not_retried, "photo")
        yield f"{photos} failed for good in earlier runs. Embed them again with --retry-errors all"
    if summary.excluded:
        yield f"{_count(summary.excluded, 'object')} left out by --include and --exclude"
    if summary.placeholders:
        yield f"{_count(summary.placeholders, 'empty placeholder')} of folders left out"
    if summary.gone:
        rows = _count(summary.gone, "row of an object", "rows of objects")
        verb = "exists" if summary.gone == 1 else "exist"
        was = "was" if summary.gone == 1 else "were"
        end = f"{was} removed" if summary.pruned else f"{was} kept. Remove with --prune"
        yield f"{rows} that no longer {verb} {end}"


def _count(number: int, noun: str, plural: str = "") -> str:
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def rounded(value: Any) -> Any:
    """For JSON: floats to six decimals, which are microseconds, and bytes of a megabyte."""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return round(value, 6) if isinstance(value, float) else value


def say(text: str) -> None:
    print(f"clip-embed: {printable(text, keep='')}", file=sys.stderr, flush=True)
