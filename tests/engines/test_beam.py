"""EmbedPartitions on Beam's DirectRunner, with a real server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from clip_batch import ClientOptions, Dataset, Job, open_storage, verify
from clip_batch.beam import EmbedPartitions
from testing.waiting import PATIENCE_S
from tests.engines.conftest import BROKEN, OBJECTS


def embed(job: Job, results: Path) -> list[dict[str, int]]:
    """Runs a pipeline over what is not done; returns the counts that it wrote."""
    partitions = Dataset.read(open_storage(job.out)).undone()
    # In this process, two bundles at a time.
    options = PipelineOptions(["--direct_num_workers=2", "--direct_running_mode=multi_threading"])
    with beam.Pipeline(options=options) as pipeline:
        (
            pipeline
            | beam.Create(partitions)
            | EmbedPartitions(job)
            | beam.Map(lambda counts: counts.to_json().decode())
            | beam.io.WriteToText(str(results / "counts"))
        )
    lines = [line for file in results.glob("counts*") for line in file.read_text().splitlines()]
    return [json.loads(line) for line in lines]


def test_a_pipeline_embeds_each_object_once(server: str, plan: Callable[[int], Path], tmp_path: Path) -> None:
    job = Job(str(plan(10)), ClientOptions(server, deadline_s=PATIENCE_S))
    counts = embed(job, tmp_path)
    assert sorted(each["partition"] for each in counts) == list(range(OBJECTS // 10))
    assert sum(each["embedded"] for each in counts) == OBJECTS - BROKEN
    report = verify(open_storage(job.out))
    assert report.ok, report.problems
    assert (report.objects, report.failed, report.unused) == (OBJECTS, BROKEN, 0)


def test_a_server_that_is_down_fails_the_pipeline(plan: Callable[[int], Path], tmp_path: Path) -> None:
    job = Job(str(plan(100)), ClientOptions("127.0.0.1:1", wait_s=0.1))
    with pytest.raises(Exception, match="no answer from the server"):
        embed(job, tmp_path)
