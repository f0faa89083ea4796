"""The cost of an image in each CPU encoder: `python -m benchmarks.encoders --repository DIR`.

Engines, precisions, threads and batches in one process, in interleaved passes, so that other work on the
machine affects all of them alike; and the lowest cosine to open_clip's embeddings of the export's photos.
"to fp32" is the median over passes of the ratio to onnxruntime's fp32 with the same threads and batch:
compare this across machines. A precision that this CPU lacks is marked, not measured under its name.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from clip_serving import defaults
from clip_serving.encoder.cpu import Cpu
from clip_serving.encoder.engines import Encoder, OnnxEncoder, OpenVinoEncoder
from clip_serving.encoder.proof import Pixels, Proof
from clip_serving.errors import ClipServingError
from clip_serving.repository.stage import available_cores
from clip_serving.repository.versions import served_version

BASE = "onnxruntime fp32"


@dataclass
class Case:
    """One encoder at one batch size; seconds of wall and CPU time per image, one value per pass."""

    name: str
    threads: int
    batch: int
    encoder: Encoder
    cosine: float
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def run(self, pixels: Pixels, repeats: int) -> None:
        valid = np.ones((len(pixels), 1), np.bool_)
        begin, busy = time.perf_counter(), time.process_time()
        for _ in range(repeats):
            self.encoder.embed(pixels, valid)
        images = repeats * len(pixels)
        self.wall.append((time.perf_counter() - begin) / images)
        self.cpu.append((time.process_time() - busy) / images)


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.encoders",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--repository", type=Path, required=True, metavar="DIR", help="an exported one")
    add("--threads", type=_counts, default=tuple(sorted({1, available_cores()})), metavar="N,N",
        help="default: one, and one per core")  # fmt: skip
    add("--batches", type=_counts, default=(1, 8), metavar="N,N", help="default: 1,8")
    add("--passes", type=int, default=5, metavar="N", help="default: %(default)s")
    options = parser.parse_args()
    try:
        version = served_version(options.repository)
        proof = Proof.load(version)
        cases = [case for n in options.threads for case in _cases(version, proof, n, options.batches)]
    except ClipServingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    cpu = Cpu.here()
    print(f"{cpu.name}; BF16 instructions: {'yes' if cpu.has_bf16 else 'no'}; {available_cores()} cores\n")
    for number in range(options.passes + 1):  # the first one warms up
        print(f"pass {number} of {options.passes}", file=sys.stderr, flush=True)
        for case in cases:
            copies = -(-case.batch // len(proof.pixels))
            case.run(np.concatenate([proof.pixels] * copies)[: case.batch], max(1, 8 // case.batch))
    print(table(cases))
    return 0


def _counts(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _cases(version: Path, proof: Proof, threads: int, batches: tuple[int, ...]) -> Iterator[Case]:
    for name, encoder in _encoders(version, threads):
        cosine = proof.least_cosine(encoder.embed)
        for batch in batches:
            yield Case(name, threads, batch, encoder, cosine)


def _encoders(version: Path, threads: int) -> Iterator[tuple[str, Encoder]]:
    fp32, int8 = version / defaults.ONNX_FP32_FILE, version / defaults.ONNX_INT8_FILE
    yield BASE, OnnxEncoder(fp32, threads)
    yield "OpenVINO fp32", OpenVinoEncoder(fp32, threads, "fp32")
    hinted = OpenVinoEncoder(fp32, threads, "bf16")
    if hinted.precision != "bf16":
        yield f"OpenVINO set to bf16, computes {hinted.precision}", hinted
    elif Cpu.here().has_bf16:
        yield "OpenVINO bf16", hinted
    else:
        yield "OpenVINO bf16, emulated", hinted
    if int8.is_file():
        yield "onnxruntime int8", OnnxEncoder(int8, threads)
        yield "OpenVINO, the int8 graph", OpenVinoEncoder(int8, threads, "fp32")


def table(cases: list[Case]) -> str:
    """Markdown, without the first pass, which warms up."""
    bases = {(case.threads, case.batch): case for case in cases if case.name == BASE}
    lines = [
        "| encoder | threads | batch | ms per image: best, median | CPU ms | to fp32 | lowest cosine |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in sorted(cases, key=lambda case: (case.threads, case.batch)):
        wall, cpu = 1000 * np.array(case.wall[1:]), 1000 * np.array(case.cpu[1:])
        ratio = np.median(wall / (1000 * np.array(bases[case.threads, case.batch].wall[1:])))
        lines.append(
            f"| {case.name} | {case.threads} | {case.batch} | {wall.min():.1f}, {np.median(wall):.1f} "
            f"| {np.median(cpu):.1f} | {ratio:.2f} | {case.cosine:.6f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
