"""The command that is printed is one that clip-serve takes, and serves the setting."""

from __future__ import annotations

import shlex
from pathlib import Path

from clip_profile.answer.serve_command import serve_command
from clip_serving.cli import _parser, _server_options
from tests.unit.profile.records import setting


def test_clip_serve_understands_every_word_of_it() -> None:
    wanted = setting(preprocess_instances=3, encoder_instances=2, encoder_threads=4, encoder_precision="int8")
    repository = Path("my models/it's here")
    text = serve_command(wanted, repository)
    assert text is not None
    program, *words = shlex.split(text)
    options = _parser().parse_args(words)
    served = _server_options(options)
    assert (program, options.repository) == ("clip-serve", repository)
    assert served.layout == wanted.layout
    assert (served.model_config_name, served.encoder_precision) == ("cpu", "int8")


def test_a_running_servers_backend_is_not_taken_for_a_config() -> None:
    text = serve_command(setting(model_config_name="python", encoder_precision="auto"), Path("r"))
    assert text is not None
    assert "--model-config-name cpu" in text
    assert text.endswith("--encoder-precision auto")


def test_what_clip_serve_cannot_serve_has_no_command() -> None:
    for name in ("", "tensorrt", "onnxruntime"):
        assert serve_command(setting(model_config_name=name), Path("r")) is None
