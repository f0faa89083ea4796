"""deployment.json: read strictly, written whole, with messages that say what to write instead."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from clip_serving.errors import ConfigurationError
from clip_serving.repository.deployment import DEPLOYMENT_FILE, Deployment, load_or_default
from clip_serving.repository.families.image import IMAGE
from clip_serving.repository.families.image.settings import ImageSettings
from clip_serving.repository.flags import add_flags, given
from clip_serving.repository.settings import table
from testing.repositories import rendered_repository

TUNED = ImageSettings(
    max_batch_size=16,
    preprocess_instances=7,
    preprocess_threads=2,
    max_queue_size=0,
    quality="exact",
    apply_exif_orientation=False,
    allow_truncated=True,
    background="#ffffff",
    max_bytes=1234,
    max_pixels=5678,
    decode_timeout_s=4.5,
    encoder_instances=3,
    encoder_threads=2,
    encoder_precision="fp32",
    preferred_batch_sizes=(4, 16),
    max_queue_delay_us=0,
    encoder_version=2,
)
"""No setting at its default."""


def section_of(settings: ImageSettings) -> Any:
    return json.loads(Deployment.of(IMAGE, settings).to_json())["image"]


def loaded(section: Any) -> ImageSettings:
    return Deployment.from_json(json.dumps({"version": 1, "image": section})).settings(IMAGE)


def test_every_setting_survives_the_file() -> None:
    usual = ImageSettings()
    for line in table(ImageSettings):
        assert getattr(TUNED, line.name) != getattr(usual, line.name), line.name
    assert loaded(section_of(TUNED)) == TUNED


def test_the_file_has_a_group_for_each_stage() -> None:
    section = section_of(TUNED)
    assert list(section) == ["max_batch_size", "preprocess", "encoder"]
    assert section["preprocess"]["quality"] == "exact"
    assert section["encoder"]["preferred_batch_sizes"] == [4, 16]


def test_a_key_that_is_missing_means_the_default() -> None:
    assert loaded({"encoder": {"threads": 3}}) == ImageSettings(encoder_threads=3)
    assert loaded({}) == ImageSettings()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"max_bach_size": 4}, "image.max_bach_size is not a setting. Did you mean 'max_batch_size'?"),
        (
            {"encoder": {"quality": "fast"}},
            "encoder.quality is not a setting. Allowed: instances, threads",
        ),
        ({"decoder": {}}, "image.decoder is not a setting. Did you mean 'encoder'?"),
        ({"preprocess": 4}, "image.preprocess is 4. Allowed: an object with settings"),
        (
            {"preprocess": {"quality": "best"}},
            'preprocess.quality is "best". Allowed: exact, high, fast',
        ),
        ({"preprocess": {"quality": ["fast"]}}, 'image.preprocess.quality is ["fast"]. Allowed: exact'),
        ({"preprocess": {"instances": 0}}, "preprocess.instances is 0. Allowed: a whole number, at least 1"),
        ({"preprocess": {"instances": True}}, "preprocess.instances is true. Allowed: a whole number"),
        ({"preprocess": {"instances": "4"}}, 'preprocess.instances is "4". Allowed: a whole number'),
        ({"preprocess": {"allow_truncated": "no"}}, 'allow_truncated is "no". Allowed: true or false'),
        (
            {"preprocess": {"background": "#ffff"}},
            'preprocess.background is "#ffff". Allowed: none, or a color such as "#ffffff"',
        ),
        ({"preprocess": {"background": None}}, "preprocess.background is null. Allowed: none, or a color"),
        ({"preprocess": {"decode_timeout_s": 0}}, "decode_timeout_s is 0. Allowed: a number above 0"),
        (
            {"preprocess": {"decode_timeout_s": 1e300}},
            "is 1e+300. Allowed: a number above 0 and at most 86400",
        ),
        ({"preprocess": {"decode_timeout_s": 10**400}}, "Allowed: a number above 0 and at most 86400"),
        (
            {"max_batch_size": 2**31},
            "max_batch_size is 2147483648. Allowed: a whole number, at least 1 and at",
        ),
        ({"preprocess": {"threads": 10**30}}, "Allowed: a whole number, at least 1 and at most 2147483647"),
        ({"encoder": {"preferred_batch_sizes": [2**31]}}, "each at least 1 and at most 2147483647"),
        (
            {"encoder": {"preferred_batch_sizes": [8, 0]}},
            "batch_sizes is [8, 0]. Allowed: a list of",
        ),
        (
            {"encoder": {"version": 0}},
            "encoder.version is 0. Allowed: a whole number, at least 1 and at most 2147483647, or null",
        ),
        ([], "image is []. Allowed: an object with settings"),
    ],
)
def test_a_mistake_is_named_with_what_is_allowed(section: Any, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        loaded(section)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "deployment.json: not JSON"),
        ("[]", 'the key "version" is not 1'),
        ('{"image": {}}', 'the key "version" is not 1'),
        (
            '{"version": 2, "image": {}}',
            'the key "version" is not 1, the only version that this release reads',
        ),
        ('{"version": 1, "imagge": {}}', "imagge is not a setting. Did you mean 'image'?"),
        ('{"version": 1}', 'it describes no models. Add a section, for example "image": {}'),
        ('{"version": 1, "image": {}, "image": {}}', 'the key "image" is there twice in one object'),
        ("[" * 100_000, "not JSON"),
        ('{"version": ' + "9" * 5000 + "}", "not JSON"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / DEPLOYMENT_FILE).write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        Deployment.load(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/deployment.json: ")
    assert message in str(caught.value)


def test_a_file_of_a_windows_editor_is_read(tmp_path: Path) -> None:
    path = tmp_path / DEPLOYMENT_FILE
    text = Deployment.of(IMAGE, TUNED).to_json().replace("\n", "\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert Deployment.load(tmp_path).settings(IMAGE) == TUNED
    path.write_bytes(text.encode("utf-16"))
    with pytest.raises(ConfigurationError, match=r"deployment\.json is not UTF-8 .* Save it as UTF-8"):
        Deployment.load(tmp_path)


def test_code_cannot_set_what_a_file_cannot() -> None:
    with pytest.raises(ConfigurationError, match=r"encoder_threads is 0\. Allowed: a whole number"):
        ImageSettings(encoder_threads=0)
    with pytest.raises(ConfigurationError, match="quality is"):
        Deployment.of(IMAGE).replaced(IMAGE, quality="best")


def test_a_folder_without_a_repository_has_no_settings_yet(tmp_path: Path) -> None:
    assert load_or_default(tmp_path) == Deployment({})
    assert load_or_default(tmp_path).replaced(IMAGE, max_bytes=9).settings(IMAGE) == ImageSettings(
        max_bytes=9
    )
    rendered_repository(tmp_path, max_bytes=8)
    assert load_or_default(tmp_path).settings(IMAGE).max_bytes == 8


# --- flags -----------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("program")
    add_flags(parser, IMAGE)
    return parser


def test_every_setting_has_a_flag() -> None:
    flags = (
        "--max-batch-size 16 --preprocess-instances 7 --preprocess-threads 2 --max-queue-size 0 "
        "--quality exact --ignore-exif-orientation --allow-truncated --background white --max-bytes 1234 "
        "--max-pixels 5678 --decode-timeout 4.5 --encoder-instances 3 --encoder-threads 2 "
        "--encoder-precision fp32 --preferred-batch-sizes 4,16 --max-queue-delay-us 0 --activate 2"
    )
    found = given(parser().parse_args(flags.split()), IMAGE)
    assert ImageSettings(**found) == TUNED


def test_flags_that_are_not_given_change_nothing() -> None:
    assert given(parser().parse_args([]), IMAGE) == {}
    switches = ["--apply-exif-orientation", "--no-allow-truncated"]
    assert given(parser().parse_args(switches), IMAGE) == {
        "apply_exif_orientation": True,
        "allow_truncated": False,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-batch-size", "0"], "'0'. Allowed: a whole number, at least 1"),
        (["--preferred-batch-sizes", "8,x"], "'8,x'. Allowed: a list of whole numbers"),
        (["--quality", "best"], "invalid choice: 'best'"),
    ],
)
def test_a_wrong_flag_says_what_is_allowed(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(arguments)
    assert message in capsys.readouterr().err


def test_help_shows_the_default_of_every_setting() -> None:
    new = argparse.ArgumentParser("program")
    add_flags(new, IMAGE, show_defaults=True)
    text = " ".join(new.format_help().split())
    assert "--preferred-batch-sizes VALUE batch sizes" in text
    assert "(in a new repository: 8,16,32,64)" in text
    assert "(in a new repository: true)" in text


def test_help_shows_no_defaults_where_the_repository_has_the_value() -> None:
    assert "in a new repository" not in parser().format_help()
