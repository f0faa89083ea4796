"""What is read of the machine and of the server while a load runs."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pynvml
import pytest

from clip_client.timings import ServerTimes
from clip_profile.observe import gpu
from clip_profile.observe.metrics import photo_seconds, read_metrics
from clip_profile.observe.observer import MOST_SAMPLES, PERIOD_S, Observer
from clip_profile.observe.processes import ProcessGroup
from clip_profile.observe.server_stats import Counts, statistics_since
from clip_profile.observe.usage import Level
from clip_profile.records.measurement import Sample
from testing.processes import running
from tests.unit.profile.pages import metrics_page


def burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        sum(range(1000))


def test_cpu_of_a_role_is_counted_and_its_memory_seen() -> None:
    with Observer(None, {"me": [os.getpid()]}) as observer:
        observer.client(os.getpid())
        burn(0.3)
        time.sleep(3 * PERIOD_S)
    # /proc counts in hundredths of a second.
    assert observer.cpu_s["me"] >= 0.28
    assert observer.client_cpu_s >= 0.28
    samples = observer.samples
    assert samples
    assert all(sample.server_rss_mb is not None and sample.server_rss_mb > 1 for sample in samples)
    assert [sample.at_s for sample in samples] == sorted(sample.at_s for sample in samples)


def test_a_client_that_is_older_than_its_load_counts_from_then_on() -> None:
    burn(0.5)
    observer = Observer(None, {})
    observer.client(os.getpid())
    with observer:
        burn(0.1)
        time.sleep(2 * PERIOD_S)
    assert 0.08 <= observer.client_cpu_s < 0.4
    samples = observer.samples
    assert all(sample.client_rss_mb is not None and sample.client_rss_mb > 1 for sample in samples)
    assert all(sample.machine_memory is not None and 0 < sample.machine_memory < 1 for sample in samples)
    assert all(sample.client_cpu < 1.5 for sample in samples)


def test_a_server_elsewhere_has_no_figures_of_its_own() -> None:
    with Observer(None, {}) as observer:
        time.sleep(2 * PERIOD_S)
    assert observer.cpu_s == {}
    assert all(sample.server_cpu is None and sample.server_rss_mb is None for sample in observer.samples)


def test_a_process_that_ends_meanwhile_does_not_end_the_observation() -> None:
    child = os.fork()
    if child == 0:
        burn(0.3)
        time.sleep(3 * PERIOD_S)
        os._exit(0)
    with Observer(None, {"child": [child]}) as observer:
        os.waitpid(child, 0)
        time.sleep(2 * PERIOD_S)
    assert observer.cpu_s["child"] >= 0.25, "what it was last seen with"


def test_children_count_with_their_parent() -> None:
    child = "import time\nwhile time.process_time() < 0.1: pass\ntime.sleep(600)"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with running([sys.executable, "-c", program]) as process:
        alone, family = ProcessGroup([process.pid]), ProcessGroup([process.pid], children=True)
        end = time.monotonic() + 60
        while not family.cpu_s() > alone.cpu_s() > 0:  # until the child has done something
            assert time.monotonic() < end
            time.sleep(0.05)
        assert family.rss_mb() > alone.rss_mb() > 0
    assert family.cpu_s() > alone.cpu_s() > 0, "what they were last seen with"
    assert family.rss_mb() == 0


def test_children_that_start_later_are_watched() -> None:
    with Observer(None, {"tests": [os.getpid()]}, children=True) as observer:
        burn = (
            "import time\nend = time.process_time() + 0.5\nwhile time.process_time() < end: sum(range(1000))"
        )
        subprocess.run([sys.executable, "-c", burn + "\ntime.sleep(1)"], check=True)
    assert observer.cpu_s["tests"] >= 0.45


def test_a_long_run_is_thinned_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clip_profile.observe.observer.PERIOD_S", 0.001)
    with Observer(None, {}) as observer:
        while len(observer.every_sample) <= 2 * MOST_SAMPLES:
            time.sleep(0.01)
    assert 0 < len(observer.samples) <= MOST_SAMPLES


def test_without_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    gpu._handles.cache_clear()
    monkeypatch.setattr(pynvml, "nvmlInit", missing)
    try:
        assert gpu.names() == ()
        assert gpu.sample() is None
    finally:
        gpu._handles.cache_clear()


def test_a_partitioned_gpu_reports_its_memory_and_the_others_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def use(handle: int) -> SimpleNamespace:
        if handle == 1:  # MIG
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return SimpleNamespace(gpu=100)

    memory = SimpleNamespace(used=2**30, total=2**34)
    monkeypatch.setattr(gpu, "_handles", lambda: (0, 1))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUtilizationRates", use)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", lambda _: memory)
    assert gpu.sample() == ((1.0, None), 2048.0)
    assert gpu.memory_total_mb() == 32768.0


def test_the_busiest_gpu_is_one_and_the_same_over_the_run() -> None:
    looks = [(0.1, 0.9, None), (1.0, 0.8, None), (0.0, None, None)]
    assert gpu.busiest(looks) == [0.9, 0.8]
    assert gpu.busiest([(), (None,)]) == gpu.busiest([]) == []


def test_a_block_that_is_shorter_than_a_period_has_a_sample() -> None:
    with Observer(None, {"me": [os.getpid()]}) as observer:
        pass
    assert [sample.server_rss_mb is not None for sample in observer.every_sample] == [True]


def test_a_peak_between_kept_samples_is_reported() -> None:
    with Observer(None, {"me": [os.getpid()]}) as observer:
        pass
    low = Sample(0.0, 1.0, 0.1, 1.5, 900.0, (0.5, 0.1), 100.0)
    observer.every_sample = [low] * 200
    observer.every_sample[1] = dataclasses.replace(low, server_rss_mb=1300.0, gpu_memory_mb=700.0)
    observer.cpu_s = {"embed": 1.0}
    used = observer.resources(photos=10, seconds=1.0, local=True)
    assert observer.every_sample[1] not in observer.samples
    assert used.server is not None
    assert used.server.rss_mb is not None
    assert used.server.rss_mb.peak == 1300.0
    assert used.gpu is not None
    assert used.gpu.percent == Level(50.0, 50.0)
    assert used.gpu.memory_mb is not None
    assert used.gpu.memory_mb.peak == 700.0


def test_counts_between_two_moments() -> None:
    before = Counts(photos=10, batches={1: 4, 2: 3}, busy_s=1.0)
    after = Counts(photos=30, batches={1: 4, 2: 9, 4: 2}, busy_s=2.5)
    assert after.since(before) == Counts(photos=20, batches={2: 6, 4: 2}, busy_s=1.5)


def test_statistics_of_a_server_that_was_restarted_are_empty() -> None:
    early = {"embed": Counts(10, times=ServerTimes(10, 5, 5))}
    late = {"embed": Counts(12, times=ServerTimes(12, 7, 9))}
    assert statistics_since(late, early) == {"embed": Counts(2, times=ServerTimes(2, 2, 4))}
    assert statistics_since(early, late) == statistics_since(late, {}) == statistics_since({}, early) == {}


_PAGE = """\
# HELP clip_decode_seconds Time to decode one photo
# TYPE clip_decode_seconds histogram
clip_decode_seconds_bucket{model="clip_image_preprocess",version="1",le="0.1"} 7
clip_decode_seconds_count{model="clip_image_preprocess",version="1"} 10
clip_decode_seconds_sum{model="clip_image_preprocess",version="1"} 0.5
clip_preprocess_seconds_count{model="clip_image_preprocess",version="1"} 8
clip_preprocess_seconds_sum{model="clip_image_preprocess",version="1"} 0.16
nv_inference_count{model="clip_image",version="1"} 10
"""


@pytest.fixture
def metrics_url() -> Iterator[str]:
    with metrics_page(_PAGE) as url:
        yield url


def test_decode_and_preprocess_are_read_from_the_metrics(metrics_url: str) -> None:
    page = read_metrics(metrics_url)
    assert photo_seconds(page, "decode") == (0.5, 10)
    assert photo_seconds(page, "preprocess") == (0.16, 8)


def test_photos_between_two_looks_have_their_mean_time(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = [
        {"clip_decode_seconds_sum": [0.1], "clip_decode_seconds_count": [2.0]},
        {"clip_decode_seconds_sum": [0.3, 0.2], "clip_decode_seconds_count": [6.0, 4.0]},
    ]
    monkeypatch.setattr("clip_profile.observe.observer.read_metrics", lambda _: pages.pop(0))
    with Observer(None, {}) as observer:
        pass
    assert observer.photo_ms == {"decode": pytest.approx(50.0)}, "no photo was preprocessed in between"


def test_without_metrics_no_figures_are_reported() -> None:
    assert read_metrics(None) == {}
    assert read_metrics("http://127.0.0.1:1/metrics") == {}
    assert photo_seconds({}, "decode") == (0.0, 0)
