"""Which precision a version is offered in, and what is said where it is not; nothing is loaded here."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from clip_serving import defaults
from clip_serving.encoder.choice import choose, servable
from clip_serving.encoder.cpu import Cpu
from clip_serving.encoder.proof import Proof, least_cosine
from clip_serving.errors import ConfigurationError
from clip_serving.repository.spec import SPEC_FILE, ModelSpec
from clip_serving.server.log import announced, announcement
from tools.render_default import SPEC

PLAIN = Cpu("plain", frozenset({"avx2"}))
BF16 = Cpu("with bf16", frozenset({"avx2", "avx512_bf16"}))


def version_of(folder: Path, **cosines: float) -> Path:
    """A version directory without graphs."""
    spec = dataclasses.replace(ModelSpec.load(SPEC), min_cosine=cosines)
    (folder / SPEC_FILE).write_text(spec.to_json())
    rows = np.eye(2, 4, dtype=np.float32)
    Proof(np.zeros((2, 8, 8, 3), np.uint8), rows).save(folder)
    return folder


def test_what_can_be_served_follows_cpu_and_export(tmp_path: Path) -> None:
    version = version_of(tmp_path, fp32=1.0, int8=0.9901)
    assert servable(version, PLAIN) == ("fp32", "int8")
    assert servable(version, BF16) == ("fp32", "bf16", "int8")
    version_of(tmp_path, fp32=1.0, int8=0.9899)
    assert servable(version, BF16) == ("fp32", "bf16")
    (version / defaults.PROOF_FILE).unlink()
    assert servable(version, BF16) == ("fp32",)


def test_bf16_is_refused_where_the_cpu_has_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no BF16 instructions.*--encoder-precision"):
        choose(version_of(tmp_path), "bf16", 1, PLAIN)


def test_bf16_is_refused_where_nothing_proves_it(tmp_path: Path) -> None:
    version = version_of(tmp_path)
    (version / defaults.PROOF_FILE).unlink()
    with pytest.raises(ConfigurationError, match=r"proof.npz.*export the model again"):
        choose(version, "bf16", 1, BF16)


@pytest.mark.parametrize(
    ("cosines", "why"),
    [
        ({"int8": 0.9631}, r"rejected int8: its cosine to fp32 was 0.9631 on real photos, below 0.99"),
        ({}, r"made without int8 \(export the model again\)"),
    ],
)
def test_int8_that_was_not_verified_is_refused(tmp_path: Path, cosines: dict[str, float], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        choose(version_of(tmp_path, **cosines), "int8", 1, BF16)


def test_a_spec_of_an_older_release_has_no_cosines() -> None:
    old = json.loads(ModelSpec.load(SPEC).to_json())
    del old["min_cosine"]
    assert ModelSpec.from_json(json.dumps(old)).min_cosine == {}


def test_a_damaged_proof_is_named(tmp_path: Path) -> None:
    (version_of(tmp_path) / defaults.PROOF_FILE).write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(ConfigurationError, match=r"proof.npz is missing or damaged"):
        Proof.load(tmp_path)


def test_the_worst_row_counts() -> None:
    wanted = np.eye(3, 4, dtype=np.float32)
    rows = wanted.copy()
    assert least_cosine(2 * rows, wanted) == pytest.approx(1.0)
    rows[1] = [0, 0.6, 0.8, 0]
    assert least_cosine(rows, wanted) == pytest.approx(0.6)
    rows[2] = np.nan
    assert least_cosine(rows, wanted) == -1.0
    assert least_cosine(rows[:2], wanted) == -1.0


def test_the_line_of_the_log_is_read_back(tmp_path: Path) -> None:
    log = tmp_path / "tritonserver.log"
    said = announcement("int8 in onnxruntime, 2 threads (chosen)")
    log.write_text(f'I1124 10:00:00.1 7 pb_stub.cc:92] "{said}"\nI1124 10:00:00.2 7 server.cc:1] "ready"\n')
    assert announced(log) == "int8 in onnxruntime, 2 threads (chosen)"
    log.write_text("nothing of the kind\n")
    assert announced(log) is None
