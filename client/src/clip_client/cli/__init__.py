"""`clip-embed`: CLIP embeddings of a bucket or folder of photos, in a Parquet file."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import traceback
from contextlib import closing, nullcontext

from clip_client.arguments import connection_of, decode, source_options, urls
from clip_client.check import check
from clip_client.cli import arguments
from clip_client.cli.progress import Progress
from clip_client.cli.report import report, rounded, say
from clip_client.client import ClipClient
from clip_client.errors import ClipClientError, ServerBusy, SinkError
from clip_client.memory import keep_freed_memory
from clip_client.pipeline import RunOptions, embed_all
from clip_client.sinks.base import how_to_continue
from clip_client.sources import open_source
from clip_client.terminal import interrupts, printable

BUSY = 3
"""Exit status of --check for a server that sheds load."""


def main(argv: list[str] | None = None) -> int:
    parser = arguments.parser()
    options = parser.parse_args(argv)
    options.out = arguments.sink(parser, options)
    try:
        with interrupts():
            return _run(parser, options)
    except ClipClientError as error:
        say(f"error: {error}")
        if not isinstance(error, SinkError):  # a SinkError already says it
            _say_what_is_kept(options)
        return 2
    except KeyboardInterrupt:
        say("stopped")
        _say_what_is_kept(options)
        return 130
    except Exception:
        # Without this, Python would exit with status 1, which means that the file was written.
        print(printable(traceback.format_exc()), end="", file=sys.stderr)
        _say_what_is_kept(options)
        return 2


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    if options.check:
        return _check(options)
    if options.text:
        return _embed_text(options)
    if not options.source or options.out is None:
        parser.error("give a source and --out FILE, --text TEXT, or --check URL")
    if len(options.source) > 1:
        parser.error(
            f"{len(options.source)} sources are given, such as {options.source[0]} and "
            f"{options.source[1]}. Give one; if your shell has expanded a pattern, give the folder with "
            "--include 'PATTERN'"
        )
    if unused := arguments.unused_for(options.source[0], options):
        parser.error(f"{options.source[0]} is not a bucket, and {unused} is for buckets. Leave it out")
    keep_freed_memory()
    return _embed(options)


def _say_what_is_kept(options: argparse.Namespace) -> None:
    if options.out is not None and options.out.unfinished:
        way = how_to_continue(overwrite=options.overwrite)
        say(f"finished rows are kept in {options.out.unfinished}: {way}")


def _check(options: argparse.Namespace) -> int:
    try:
        result = check(
            options.check,
            model=options.model,
            connection=connection_of(options),
            wait_s=options.wait,
            tier=options.tier,
            decode=decode(options) if options.decode else None,
        )
    except ServerBusy as error:
        say(f"busy: {error}")
        return BUSY
    if options.json:
        print(json.dumps(rounded(dataclasses.asdict(result))))
    say(f"{'right' if result.ok else 'WRONG'}: {result.message}")
    return 0 if result.ok else 1


def _embed_text(options: argparse.Namespace) -> int:
    with ClipClient(
        urls(options),
        model=options.model,
        connection=connection_of(options),
        deadline_s=options.deadline,
        concurrency=1,
    ) as client:
        results = client.embed_text_results(options.text)
    for text, result in zip(options.text, results, strict=True):
        line = {
            "text": text,
            "embedding": None if result.embedding is None else result.embedding.tolist(),
            "error": result.error and str(result.error),
            "notices": [notice.code for notice in result.notices],
        }
        print(json.dumps(line))
    return 1 if any(result.error for result in results) else 0


def _embed(options: argparse.Namespace) -> int:
    run = RunOptions(
        resume=options.resume,
        overwrite=options.overwrite,
        add_source=options.add_source,
        include=options.include,
        exclude=options.exclude,
        prune=options.prune,
        retry_errors=options.retry_errors,
        source_name=options.source_name,
    )
    source = open_source(options.source[0], source_options(options, options.concurrency * len(urls(options))))
    client = ClipClient(
        urls(options),
        model=options.model,
        connection=connection_of(options),
        deadline_s=options.deadline,
        concurrency=options.concurrency,
        decode=decode(options),
    )
    with closing(options.out), client:
        source.check()
        options.out.check(run.source_name or source.uri, run)
        client.wait(options.wait)
        for each in client.servers:
            if not each.is_compared:
                say(f"no answer from the server at {each.url}. The others do its work until it answers")
        timing = client.timed() if options.timings else nullcontext()
        with timing as timings, Progress(quiet=options.quiet) as progress:
            summary = embed_all(
                client, source, options.out, run, on_item=progress.show, on_total=progress.on_total
            )
    servers = {each.url: each.answered for each in client.servers}
    report(summary, timings.stages() if timings else {}, servers, as_json=options.json)
    if summary.kept_in:
        say(how_to_continue(overwrite=options.overwrite))
    if summary.interrupted:
        return 130
    return 1 if summary.failed else 0
