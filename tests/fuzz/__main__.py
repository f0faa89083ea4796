"""`python -m tests.fuzz --files 20000`: mutated files through the preprocessing function.

A fifth as many JPEGs have noise outside of their picture data: their pixels must be the intact file's.

Exit code 0 if every rule held; else 1, and the files that broke one are kept in build/fuzz.
A decoder that crashes takes this process with it; build/fuzz/current.bin is the file it crashed on.
"""

from __future__ import annotations

import argparse
import resource
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from testing.mutate import header_noise, mutations
from tests.fuzz.check import check_files, check_noise

FOLDER = Path("build/fuzz")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    FOLDER.mkdir(parents=True, exist_ok=True)
    outcome = check_files(_announced(mutations(options.files, options.seed), options.files))
    outcome.violations += check_noise(header_noise(options.files // 5, options.seed))
    print("\n" + ", ".join(f"{code} {count:,}" for code, count in outcome.codes.most_common()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"slowest file {outcome.slowest_s:.2f} s, peak memory {peak:,} MB")
    for index, (data, rule) in enumerate(outcome.violations):
        path = FOLDER / f"violation_{options.seed}_{index}.bin"
        path.write_bytes(data)
        print(f"VIOLATION {path}: {rule}", file=sys.stderr)
    (FOLDER / "current.bin").unlink(missing_ok=True)
    print(f"{options.files:,} files, {len(outcome.violations)} violations (seed {options.seed})")
    return 1 if outcome.violations else 0


def _announced(files: Iterator[bytes], count: int) -> Iterator[bytes]:
    current = FOLDER / "current.bin"
    for index, data in enumerate(files):
        current.write_bytes(data)
        if index % 1000 == 0:
            print(f"\r{index:,} of {count:,}", end="", flush=True)
        yield data


if __name__ == "__main__":
    sys.exit(main())
