"""Recorded pieces of tritonserver's log become a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from clip_serving.errors import ServerError
from clip_serving.server.log import announced, announcement, begin_run, crashed, explain, taken_port

_TRACEBACK = (
    'I1124 10:42:00.1 7 model_lifecycle.cc:472] "loading: clip_image_preprocess:1"\n'
    "E1124 10:42:00.9 7 model_lifecycle.cc:642] \"failed to load 'clip_image_preprocess' version 1: "
    "Internal: ModuleNotFoundError: No module named 'clip_serving'\\n\\nAt:\\n  /x/model.py(1)\\n\"\n"
    'I1124 10:42:01.0 7 server.cc:604] "Waiting for in-flight requests to complete."\n'
)


def log(folder: Path, text: str) -> Path:
    path = folder / "tritonserver.log"
    path.write_text(text)
    return path


def test_a_models_load_error_is_one_sentence(tmp_path: Path) -> None:
    assert explain(log(tmp_path, _TRACEBACK)) == (
        "The model clip_image_preprocess (version 1) could not be loaded: "
        "ModuleNotFoundError: No module named 'clip_serving'"
    )


def test_a_refused_command_line_is_quoted(tmp_path: Path) -> None:
    text = (
        "tritonserver: unrecognized option '--modelcontrol=none'\nUsage: tritonserver [options]\n  --help\n"
    )
    assert "unrecognized option" in explain(log(tmp_path, text))


def test_another_error_is_given_without_its_prefix(tmp_path: Path) -> None:
    text = 'E1124 10:42:00.9 7 main.cc:42] "failed to start HTTP service: Unavailable - Socket in use"\n'
    assert explain(log(tmp_path, text)).startswith("failed to start HTTP service")


def test_without_an_error_the_end_of_the_log_is_shown(tmp_path: Path) -> None:
    assert "last words" in explain(log(tmp_path, "last words\n"))
    assert "logged no error" in explain(tmp_path / "absent.log")


def test_only_the_last_run_is_read(tmp_path: Path) -> None:
    path = log(tmp_path, _TRACEBACK)
    with begin_run(path) as file:
        file.write(announcement("fp32").encode() + b"\n")
    assert path.read_text().startswith(_TRACEBACK)
    assert announced(path) == "fp32"
    with begin_run(path) as file:
        file.write(b"last words\n")
    assert announced(path) is None
    assert explain(path).endswith("\nlast words")


def test_encoders_of_models_with_names_are_told_apart(tmp_path: Path) -> None:
    lines = [announcement("fp32"), announcement("int8", "clip_image_large"), announcement("bf16")]
    assert announced(log(tmp_path, "\n".join(lines))) == "bf16; clip_image_large: int8"


def test_a_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=rf"{tmp_path}: Is a directory"):
        begin_run(tmp_path)


def test_a_port_that_was_taken_meanwhile_is_found(tmp_path: Path) -> None:
    said = "failed to start Metrics service: Unavailable - Socket '127.0.0.1:33957' already in use"
    path = log(tmp_path, f'E1126 04:46:52.990947 31028 main.cc:293] "{said} "\n')
    assert taken_port(path) == said
    begin_run(path).close()
    assert taken_port(path) is None


def test_a_crash_is_named_rather_than_an_earlier_error(tmp_path: Path) -> None:
    path = log(
        tmp_path,
        'E1126 02:09:01.832075 3894 server.cc:241] "CudaDriverHelper has not been initialized."\n'
        "terminate called after throwing an instance of 'boost::interprocess::lock_exception'\n"
        "  what():  boost::interprocess::lock_exception\n",
    )
    assert explain(path) == "tritonserver crashed: boost::interprocess::lock_exception"
    assert crashed(path) == "boost::interprocess::lock_exception"
    begin_run(path).close()
    assert crashed(path) is None
