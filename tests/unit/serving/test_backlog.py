"""The photos between preprocess and the encoder, as several processes count them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from clip_serving import defaults
from clip_serving.triton_models.backlog import Backlog
from testing.waiting import PATIENCE_S


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "backlog"


def test_without_a_cpu_encoder_nothing_waits(path: Path) -> None:
    for _ in range(3):
        Backlog(path).hand_on(10 * defaults.MAX_BACKLOG)


def test_an_idle_encoder_gets_everything(path: Path) -> None:
    """Photos that were counted went elsewhere: to clients of preprocess, or their requests were cancelled."""
    encoder, preprocess = Backlog(path), Backlog(path)
    encoder.add_encoder()
    for _ in range(3):
        preprocess.hand_on(defaults.MAX_BACKLOG)


def test_photos_are_held_back_until_a_busy_encoder_takes_its_next_batch(path: Path) -> None:
    encoder, preprocess = Backlog(path), Backlog(path)
    encoder.add_encoder()
    handed_on = threading.Event()

    def hand_on() -> None:
        preprocess.hand_on(1)
        handed_on.set()

    with encoder.embedding():
        preprocess.hand_on(10 * defaults.MAX_BACKLOG)  # the first may be larger
        waiting = threading.Thread(target=hand_on)
        waiting.start()
        assert not handed_on.wait(0.2)
    assert handed_on.wait(PATIENCE_S)
    waiting.join()


def test_each_encoder_instance_has_room(path: Path) -> None:
    one, other = Backlog(path), Backlog(path)
    one.add_encoder()
    other.add_encoder()
    with one.embedding(), other.embedding():
        for _ in range(2 * defaults.MAX_BACKLOG):
            Backlog(path).hand_on(1)


def test_photos_are_not_held_back_for_ever(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that died while it computed stays busy."""
    monkeypatch.setattr(defaults, "MAX_BACKLOG_WAIT_S", 0.1)
    encoder = Backlog(path)
    encoder.add_encoder()
    with encoder.embedding():
        for _ in range(3):
            encoder.hand_on(defaults.MAX_BACKLOG)
