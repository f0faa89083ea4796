"""Settings are values with a name; a space holds only those that can work."""

from __future__ import annotations

import pytest

from clip_profile.errors import ProfileError
from clip_profile.records.setting import Setting, Space
from tests.unit.profile.records import BASE, setting


def test_a_setting_has_words_for_people_and_a_label_for_the_command_line() -> None:
    one = setting(preprocess_instances=1, encoder_instances=2, encoder_threads=1)
    assert one.label == "cpu fp32 p1 e2x1 b64 d2000 c8x1"
    assert one.describe() == (
        "cpu fp32, 1 preprocess x 1 thread, 2 encoders x 1 thread, batch 64, delay 2 ms, 8 requests in flight"
    )
    large = setting(concurrency=1, request_batch=4, queue_delay_us=500)
    assert large.describe().endswith(
        "1 encoder x 2 threads, batch 64, delay 0.5 ms, 1 request in flight of 4 photos"
    )


def test_labels_are_unique() -> None:
    points = Space.for_cores(2, request_batch=(1, 4)).points()
    assert len({point.label for point in points}) == len(points) >= 24
    assert len({point.describe() for point in points}) == len(points)


def test_only_cpu_encoders_have_a_precision() -> None:
    axes = {"model_config_name": ("cpu", "tensorrt"), "encoder_precision": ("fp32", "int8")}
    points = Space.for_cores(2, **axes).points()
    names = {point.encoder_name for point in points}
    assert names == {"cpu fp32", "cpu int8", "tensorrt"}
    assert setting(encoder_precision="int8").server != BASE.server


def test_the_start_is_the_usual_setting_or_next_to_it() -> None:
    space = Space.for_cores(2, encoder_precision=("bf16", "fp32"))
    usual = Setting.usual(2, "bf16")
    assert space.nearest(usual) == usual
    assert space.nearest(setting(encoder_precision="int8", max_batch=32)).max_batch == 64


def test_the_load_is_not_part_of_the_server() -> None:
    assert setting(concurrency=1).server == setting(concurrency=32, request_batch=4).server
    assert setting(queue_delay_us=0).server != BASE.server


@pytest.mark.parametrize("cores", [1, 2, 3, 8, 64])
def test_the_encoder_gets_no_more_threads_than_there_are_cores(cores: int) -> None:
    points = Space.for_cores(cores).points()
    assert points
    assert max(point.encoder_instances * point.encoder_threads for point in points) <= cores
    assert max(point.concurrency for point in points) <= 64, "a server refuses more"


@pytest.mark.parametrize(
    ("cores", "axis"),
    [
        (1, (1, 2, 4, 8, 16)),
        (2, (1, 2, 4, 8, 16, 32)),
        (3, (1, 3, 6, 12, 24, 48)),
        (8, (1, 2, 4, 8, 16, 32, 64)),
        (128, (1, 2, 4, 8, 16, 32, 64)),
    ],
)
def test_requests_in_flight_double_up_to_what_the_queue_takes(cores: int, axis: tuple[int, ...]) -> None:
    assert Space.for_cores(cores).concurrency == axis


def test_naming_both_counts_can_exceed_the_cores() -> None:
    space = Space.for_cores(2, encoder_instances=(4,), encoder_threads=(2,))
    assert {point.encoder_instances * point.encoder_threads for point in space.points()} == {8}


def test_a_request_must_fit_into_the_largest_batch() -> None:
    points = Space.for_cores(2, max_batch=(2, 8), request_batch=(1, 4)).points()
    assert all(point.request_batch <= point.max_batch for point in points)
    with pytest.raises(ProfileError, match="no setting is left"):
        Space.for_cores(2, max_batch=(2,), request_batch=(4,))


def test_the_values_of_an_axis_are_in_ascending_order() -> None:
    assert Space.for_cores(4, concurrency=(8, 2, 8)).concurrency == (2, 8)
