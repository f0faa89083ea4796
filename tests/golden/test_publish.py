"""Publishing and going back: what a server of the repository sees at every moment, and what is kept."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from clip_export.cli import main
from clip_export.errors import NotRendered
from clip_export.publish import publish, staging
from clip_serving.errors import ConfigurationError
from clip_serving.repository.cli import main as render_main
from clip_serving.repository.deployment import DEPLOYMENT_FILE, Deployment
from clip_serving.repository.families.image import IMAGE
from clip_serving.repository.families.image.settings import ImageSettings
from clip_serving.repository.spec import ModelSpec
from clip_serving.repository.versions import served_version, versions
from tools.render_default import SPEC

_TUNED = ImageSettings(
    preprocess_instances=7,
    max_batch_size=16,
    preferred_batch_sizes=(4, 16),
    max_queue_delay_us=700,
    apply_exif_orientation=False,
    quality="exact",
    allow_truncated=True,
    background="#ffffff",
    max_bytes=1234,
    max_pixels=5678,
    decode_timeout_s=4.5,
    max_queue_size=256,
)


def published(repository: Path, settings: ImageSettings | None = None, model: str = "first") -> int:
    """A version with a spec and no weights, which nothing here looks at."""
    spec = dataclasses.replace(ModelSpec.load(SPEC), model=model)
    with staging(repository) as folder:
        return publish(folder, repository, spec, lambda _: Deployment.of(IMAGE, settings))


def test_settings_that_changed_during_the_export_are_kept(tmp_path: Path) -> None:
    published(tmp_path)
    with staging(tmp_path) as folder:
        assert render_main(["--repository", str(tmp_path), "--preprocess-instances", "9"]) == 0
        version = publish(
            folder,
            tmp_path,
            dataclasses.replace(ModelSpec.load(SPEC), model="second"),
            lambda now: now.replaced(IMAGE, max_batch_size=16),
        )
    settings = settings_of(tmp_path)
    assert (settings.preprocess_instances, settings.max_batch_size) == (9, 16)
    assert settings.encoder_version == version == 2


def texts(repository: Path) -> dict[str, str]:
    paths = [*repository.rglob("*.pbtxt"), repository / DEPLOYMENT_FILE]
    return {str(path.relative_to(repository)): path.read_text() for path in paths}


def settings_of(repository: Path) -> ImageSettings:
    return Deployment.load(repository).settings(IMAGE)


def activate(repository: Path, *arguments: str) -> int:
    return main(["--activate", "1", "--repository", str(repository), *arguments])


# --- --activate ------------------------------------------------------------------------------------


def test_settings_survive_going_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published(tmp_path, _TUNED)
    before = texts(tmp_path)
    assert activate(tmp_path) == 0
    assert texts(tmp_path) == before
    assert "quality exact" in capsys.readouterr().err


def test_settings_that_are_given_replace_those_of_the_repository(tmp_path: Path) -> None:
    published(tmp_path, _TUNED)
    given = ("--quality", "fast", "--max-bytes", "99", "--apply-exif-orientation", "--no-allow-truncated")
    assert activate(tmp_path, *given) == 0
    assert settings_of(tmp_path) == dataclasses.replace(
        _TUNED,
        quality="fast",
        apply_exif_orientation=True,
        allow_truncated=False,
        max_bytes=99,
        encoder_version=1,
    )


def test_a_setting_that_another_release_did_not_write_is_the_default(tmp_path: Path) -> None:
    published(tmp_path, _TUNED)
    path = tmp_path / DEPLOYMENT_FILE
    lines = [line for line in path.read_text().splitlines() if '"max_bytes"' not in line]
    path.write_text("\n".join(lines))
    assert activate(tmp_path) == 0
    wanted = dataclasses.replace(_TUNED, max_bytes=ImageSettings().max_bytes, encoder_version=1)
    assert settings_of(tmp_path) == wanted


def test_a_setting_that_cannot_be_read_is_named_and_not_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published(tmp_path, _TUNED)
    path = tmp_path / DEPLOYMENT_FILE
    path.write_text(path.read_text().replace('"exact"', '"best"'))
    before = texts(tmp_path)
    assert activate(tmp_path) == 2
    said = capsys.readouterr().err
    assert f'{path}: image.preprocess.quality is "best". Allowed: exact, high, fast' in said
    assert texts(tmp_path) == before


def test_activating_version_0_is_not_an_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(["--activate", "0", "--repository", str(tmp_path)])
    assert (
        "--activate: '0'. Allowed: a whole number, at least 1 and at most 2147483647\n"
        in capsys.readouterr().err
    )
    assert main(["--activate", "2", "--repository", str(tmp_path)]) == 2
    assert "has no version 2 of the encoder; it has [1]" in capsys.readouterr().err
    assert versions(tmp_path) == [1]


# --- what a server sees ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cause", "told", "status"),
    [
        (OSError(28, "No space left on device"), "No space left on device", 2),
        (KeyboardInterrupt(), "stopped", 130),
    ],
    ids=["full-disk", "ctrl-c"],
)
def test_a_new_version_is_not_served_before_its_configs_are_rendered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: BaseException, told: str, status: int
) -> None:
    published(tmp_path)
    before = texts(tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise cause

    with monkeypatch.context() as patched:
        patched.setattr("clip_export.publish.write_repository", fail)
        with pytest.raises(NotRendered, match=rf"version 2 is in .*{told}.*--activate 2") as caught:
            published(tmp_path, model="second")
    assert caught.value.exit_status == status
    assert versions(tmp_path) == [1, 2]
    assert (texts(tmp_path), served_version(tmp_path).name) == (before, "1")
    assert main(["--activate", "2", "--repository", str(tmp_path)]) == 0
    assert served_version(tmp_path).name == "2"
    assert "second" in (tmp_path / "clip_image" / "config.pbtxt").read_text()


def test_settings_that_triton_rejects_change_nothing(tmp_path: Path) -> None:
    spec = ModelSpec.load(SPEC)
    too_wide = dataclasses.replace(spec, embedding_dim=1 << 70)
    with pytest.raises(ConfigurationError, match="no such model setting"), staging(tmp_path) as folder:
        publish(folder, tmp_path, too_wide, lambda _: Deployment.of(IMAGE))
    with pytest.raises(ConfigurationError, match="max_queue_size is"), staging(tmp_path) as folder:
        publish(
            folder, tmp_path, spec, lambda _: Deployment.of(IMAGE).replaced(IMAGE, max_queue_size=1 << 40)
        )
    assert list(tmp_path.iterdir()) == []


# --- the staging folder ----------------------------------------------------------------------------


def test_an_unfinished_export_is_not_a_model_in_the_repository(tmp_path: Path) -> None:
    with staging(tmp_path) as folder:
        assert [path.name for path in tmp_path.iterdir()] == ["clip_image_encoder"]
        assert not folder.name.isdigit()
    assert list(tmp_path.iterdir()) == []


def test_files_of_a_killed_export_are_removed_and_those_of_a_running_one_stay(tmp_path: Path) -> None:
    left = tmp_path / "clip_image_encoder" / ".staging-left"
    left.mkdir(parents=True)
    (left / "model.onnx").write_bytes(b"half")
    with staging(tmp_path) as running:
        assert not left.exists()
        published(tmp_path)
        assert running.is_dir()
    assert versions(tmp_path) == [1]


# --- exit status -----------------------------------------------------------------------------------


def test_an_unexpected_error_is_not_reported_as_a_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("clip_export.load.load", fail)
    assert main(["--pretrained", "none", "--repository", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "RuntimeError: out of memory" in said
    assert list(tmp_path.iterdir()) == []
