"""Precisions on the real encoder and the real server: proved where they serve, or not served."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from clip_client import ClipClient, check
from clip_serving import defaults
from clip_serving.encoder.choice import choose
from clip_serving.encoder.cpu import Cpu
from clip_serving.encoder.engines import OnnxEncoder, OpenVinoEncoder
from clip_serving.encoder.proof import Proof, least_cosine
from clip_serving.errors import ConfigurationError, ServerError
from clip_serving.repository.spec import SPEC_FILE, ModelSpec
from clip_serving.repository.stage import InstanceLayout
from clip_serving.repository.versions import served_version
from clip_serving.server.embedded import ServerOptions, TritonServer
from testing.pictures import camera_photos
from testing.repositories import rendered_repository
from testing.servers import short_lived

_HERE = Cpu.here()
_CLAIMS_BF16 = Cpu("claims more than it has", _HERE.flags | {"avx512_bf16"})
_SMALL = InstanceLayout(preprocess_instances=1, preprocess_threads=1, encoder_instances=1, encoder_threads=1)


@pytest.fixture(scope="module")
def version(small_repository: Path) -> Path:
    return served_version(small_repository)


def options(precision: defaults.EncoderPrecision) -> ServerOptions:
    return ServerOptions(layout=_SMALL, encoder_precision=precision)


def test_auto_serves_what_this_cpu_supports_and_logs_it(small_repository: Path) -> None:
    with short_lived(small_repository, options("auto")) as server:
        said = server.encoder or ""
        assert check(server.grpc_url).ok
    if _HERE.has_bf16:
        assert said.startswith("bf16 in OpenVINO, 1 thread, cosine to fp32 0.9999")
    else:
        assert said == "fp32 in onnxruntime, 1 thread (auto: no bf16, as this CPU has no BF16 instructions)"


def test_int8_is_served_and_close_to_fp32(repository: Path) -> None:
    photos = camera_photos(12, seed=9)
    rows = {}
    for precision in ("fp32", "int8"):
        with (
            short_lived(repository, options(precision)) as server,
            ClipClient(server.grpc_url) as client,
        ):
            assert (server.encoder or "").startswith(f"{precision} in onnxruntime")
            assert check(server.grpc_url).ok
            rows[precision] = client.embed(photos)
    cosine = least_cosine(rows["int8"], rows["fp32"])
    assert 0.99 <= cosine < 1 - 1e-6, "near, and not secretly fp32"
    np.testing.assert_allclose(np.linalg.norm(rows["int8"], axis=1), 1, atol=1e-5)


@pytest.mark.skipif(_HERE.has_bf16, reason="this CPU has BF16")
def test_unavailable_bf16_is_rejected_before_the_server_starts(small_repository: Path) -> None:
    with (
        pytest.raises(ServerError, match="no BF16 instructions"),
        TritonServer(small_repository, options("bf16")),
    ):
        pass


def test_openvino_embeds_as_onnxruntime_does(version: Path) -> None:
    proof = Proof.load(version)
    mask = np.array([[True], [False], [True]])
    encoder = OpenVinoEncoder(version / defaults.ONNX_FP32_FILE, 1, "fp32")
    assert encoder.precision == "fp32"
    assert proof.least_cosine(encoder.embed) > 0.999999
    rows = encoder.embed(proof.pixels[:3], mask)
    assert np.isnan(rows[1]).all()
    np.testing.assert_allclose(rows[[0, 2]], proof.embeddings[[0, 2]], atol=1e-5)
    again = encoder.embed(proof.pixels[3:4], mask[:1])
    np.testing.assert_allclose(rows[0], proof.embeddings[0], atol=1e-5, err_msg="a later call changed it")
    np.testing.assert_allclose(again[0], proof.embeddings[3], atol=1e-5)


_IN_OPENVINO = """
from pathlib import Path
from clip_serving.triton_models import encoder as triton_encoder
from clip_serving.encoder.engines import OpenVinoEncoder

class TritonPythonModel(triton_encoder.TritonPythonModel):
    def initialize(self, args):
        super().initialize(args)
        graph = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        self._encoder = OpenVinoEncoder(graph, 1, "fp32")
"""


def test_openvino_runs_inside_the_servers_process(version: Path, tmp_path: Path) -> None:
    """Its libraries beside Triton's: with `auto`, only a CPU with BF16 would show it."""
    root = rendered_repository(tmp_path / "repository", ModelSpec.load(version / SPEC_FILE))
    encoder = root / defaults.ENCODER / "1"
    (encoder / "model.onnx").symlink_to((version / "model.onnx").resolve())
    (encoder / "model.py").write_text(_IN_OPENVINO)
    with short_lived(root, options("fp32")) as server, ClipClient(server.grpc_url) as client:
        assert check(server.grpc_url).ok
        assert client.embed(camera_photos(9, seed=5)).shape == (9, 512)
        mapped = [Path(f"/proc/{pid}/maps").read_text() for pid in server.stub_pids]
        assert sum("openvino" in text for text in mapped) == 1, "it is the encoder's engine"


def test_bf16_is_not_reported_if_fp32_was_computed(version: Path) -> None:
    """Past the check of the flags, what OpenVINO says that it computes in still decides."""
    computes = OpenVinoEncoder(version / defaults.ONNX_FP32_FILE, 1, "bf16").precision
    chosen = choose(version, "auto", 1, _CLAIMS_BF16)
    assert chosen.precision == computes
    if computes == "bf16":
        assert (chosen.cosine or 0) >= defaults.MIN_COSINE["bf16"]
    else:
        assert "OpenVINO computes in fp32 on this CPU" in str(chosen)
        with pytest.raises(ConfigurationError, match="OpenVINO computes in fp32"):
            choose(version, "bf16", 1, _CLAIMS_BF16)


def test_an_encoder_that_fails_its_check_on_this_cpu_is_not_served(version: Path, tmp_path: Path) -> None:
    for path in version.iterdir():
        (tmp_path / path.name).symlink_to(path.resolve())
    proof = Proof.load(version)
    (tmp_path / defaults.PROOF_FILE).unlink()
    Proof(proof.pixels, np.roll(proof.embeddings, 1, axis=0)).save(tmp_path)
    with pytest.raises(ConfigurationError, match=r"int8 cannot be served here: its cosine.*below 0.99"):
        choose(tmp_path, "int8", 1)


def test_a_missing_graph_is_named(version: Path, tmp_path: Path) -> None:
    shutil.copy(version / "spec.json", tmp_path)
    with pytest.raises(ConfigurationError, match=r"model.int8.onnx is missing"):
        choose(tmp_path, "int8", 1)
    with pytest.raises(ConfigurationError, match=r"model.onnx is missing"):
        choose(tmp_path, "fp32", 1)
    with pytest.raises(ConfigurationError, match="onnxruntime cannot load"):
        OnnxEncoder(version / "spec.json", 1)
