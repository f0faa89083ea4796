"""Peak memory and header time of hostile files, and of the largest pictures that the limits allow."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache

import pytest

from testing.bombs import LARGE_PIXELS, bombs, large_pictures

MOST_MB = 200
"""docs/reference/limits.md: above the file itself and 20 bytes for each of its pixels."""
MOST_BYTES_PER_PIXEL = 20
HEADER_S_PER_MB = 0.05
"""CPU seconds. Measured: at most 0.01."""
_HEADER_S = 0.3
MOST_S = 5.0
"""CPU seconds from the file to its pixels or its error."""

_MEASURE = """
import ctypes, json, sys, time
import numpy as np
from clip_preprocess import ItemError, Preprocessor, PreprocessSettings
from clip_preprocess.formats import sniff
from testing.bombs import bombs, large_pictures
from testing.pictures import encoded, heic, noise

def memory(name):
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1000

preprocessor = Preprocessor(PreprocessSettings((224, 224), quality=sys.argv[1]))
rows = np.zeros((1, 224, 224, 3), np.uint8)
picture = noise(300, 300)
for sound in (encoded(picture, "PNG"), encoded(picture, "AVIF", speed=10), heic(picture)):
    preprocessor.run([sound], rows)  # libraries load their parts
for name, make in (bombs() if sys.argv[2] == "bombs" else large_pictures()).items():
    data = make()
    ctypes.CDLL(None).malloc_trim(0)  # what making the file left
    open("/proc/self/clear_refs", "w").write("5")  # the peak starts again
    before, started = memory("VmRSS"), time.process_time()
    kind = sniff(data)
    try:
        kind and kind.read_header and kind.read_header(data, False)
    except ItemError:
        pass
    header_s = time.process_time() - started
    (outcome,) = preprocessor.run([data], rows)
    print(json.dumps({
        "name": name,
        "file_mb": len(data) / 1e6,
        "peak_mb": memory("VmHWM") - before,
        "header_s": header_s,
        "all_s": time.process_time() - started,
        "error": outcome.error.wire() if outcome.error else "",
    }))
"""


@cache
def measured(files: str, quality: str) -> dict[str, dict[str, float | str]]:
    """What each file took, in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-c", _MEASURE, quality, files]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return {line["name"]: line for line in map(json.loads, lines)}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", bombs())
def test_a_bomb_takes_bounded_memory_and_time(name: str) -> None:
    found = measured("bombs", "high")[name]
    assert float(found["peak_mb"]) < MOST_MB, found
    assert float(found["header_s"]) < _HEADER_S + HEADER_S_PER_MB * float(found["file_mb"]), found
    assert float(found["all_s"]) < MOST_S, found
    assert not str(found["error"]).startswith("internal"), found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("quality", ["exact", "high"])
@pytest.mark.parametrize("name", large_pictures())
def test_a_large_picture_takes_bounded_memory(name: str, quality: str) -> None:
    found = measured("large", quality)[name]
    assert found["error"] == ""
    assert float(found["peak_mb"]) < MOST_MB / 4 + MOST_BYTES_PER_PIXEL * LARGE_PIXELS / 1e6, found
