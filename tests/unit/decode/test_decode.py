"""Decoding in the client: refused servers, photos that hang, the end of the process."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import wait

import numpy as np
import pytest
from PIL import Image
from tritonclient.grpc import service_pb2

from clip_client import ClipClient, MissingExtra, ServerMismatch
from clip_client.decode import ThreadedDecoder, settings_of
from clip_client.requests.pixels import EncoderInfo
from clip_preprocess import PIXELS_VERSION, DecodeLimits, PreprocessSettings, formats, pipeline
from clip_preprocess.resizer import pillow_resize
from testing.waiting import PATIENCE_S

_SETTINGS = PreprocessSettings((32, 48), quality="high")
_SERVER = {**_SETTINGS.to_parameters(), "pixels_version": str(PIXELS_VERSION)}


def png() -> bytes:
    data = io.BytesIO()
    Image.linear_gradient("L").resize((64, 48)).save(data, "PNG")
    return data.getvalue()


_PHOTO = png()


def test_the_servers_settings_are_read() -> None:
    assert settings_of(_SERVER, "host:1") == _SETTINGS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixels_version": "0"}, "pixels_version 0.*Install the server's release"),
        ({"quality": "best"}, "'best' is not one of"),
        ({"resize_mode": None}, "'resize_mode' is missing"),
        ({"max_pixels": "many"}, "many"),
        ({"sharpen": "2"}, "unknown here \\(sharpen\\)"),
    ],
)
def test_a_server_with_other_pixels_is_refused(change: dict[str, str | None], message: str) -> None:
    parameters = {name: value for name, value in {**_SERVER, **change}.items() if value is not None}
    with pytest.raises(ServerMismatch, match=message) as raised:
        settings_of(parameters, "host:1")
    assert "host:1" in str(raised.value)
    assert "--decode server" in str(raised.value)


def test_lower_qualities_need_the_servers_resizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clip_client.decode.fast_resize", pillow_resize)
    with pytest.raises(ServerMismatch, match="cykooz-resizer"):
        settings_of(_SERVER, "host:1")
    assert settings_of({**_SERVER, "quality": "exact"}, "host:1").quality == "exact"


def test_a_photo_is_decoded_or_has_an_error() -> None:
    decoder = ThreadedDecoder(_SETTINGS, 2)
    good, bad = (decoder.submit(photo).result(PATIENCE_S) for photo in (_PHOTO, b"not a photo"))
    decoder.close()
    assert len(good.pixels) == 32 * 48 * 3
    assert (good.facts.width, good.facts.height, good.facts.format, good.facts.error) == (64, 48, "PNG", None)
    assert bad.pixels == b""
    assert bad.facts.error is not None
    assert bad.facts.error.code == "unsupported_format"


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """While it is not set, photos that begin with b"hang" are stuck."""
    event, sniff = threading.Event(), formats.sniff

    def waiting(photo: bytes) -> object:
        if bytes(photo[:4]) == b"hang" and threading.current_thread().name == "clip-decode-photo":
            event.wait()
        return sniff(photo)

    monkeypatch.setattr(pipeline, "sniff", waiting)
    yield event
    event.set()


def test_stuck_photos_time_out_and_others_are_decoded(gate: threading.Event) -> None:
    del gate
    settings = PreprocessSettings((32, 48), limits=DecodeLimits(decode_timeout_s=1.0))
    decoder = ThreadedDecoder(settings, 2)
    futures = [decoder.submit(b"hang") for _ in range(6)] + [decoder.submit(_PHOTO) for _ in range(6)]
    found = [future.result(PATIENCE_S).facts for future in futures]
    decoder.close()
    assert [each.error and each.error.code for each in found] == ["decode_timeout"] * 6 + [None] * 6


def test_closing_ends_the_wait_for_photos_that_are_not_decoded_yet(gate: threading.Event) -> None:
    decoder = ThreadedDecoder(_SETTINGS, 1)
    futures = [decoder.submit(photo) for photo in (b"hang", _PHOTO, _PHOTO)]
    decoder.close()
    gate.set()
    assert not wait(futures, PATIENCE_S).not_done


_STUCK = """
import threading
from clip_client.decode import ThreadedDecoder
from clip_preprocess import DecodeLimits, PreprocessSettings, pipeline

sniff = pipeline.sniff

def waiting(photo):
    if threading.current_thread().name == "clip-decode-photo":
        threading.Event().wait()
    return sniff(photo)

pipeline.sniff = waiting
decoder = ThreadedDecoder(PreprocessSettings((8, 8), limits=DecodeLimits(decode_timeout_s=0.5)), 1)
print(decoder.submit(b"hang").result().facts.error.code)
"""


def test_a_stuck_photo_does_not_hold_up_the_end_of_the_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _STUCK], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    assert done.stdout.strip() == "decode_timeout"


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "clip_client.decode", None)
    with pytest.raises(MissingExtra, match=r"pip install .*\./client\[decode\]"):
        ClipClient("127.0.0.1:1", decode="client")
    ClipClient("127.0.0.1:1").close()


def test_an_unknown_placement_is_an_error() -> None:
    with pytest.raises(ValueError, match="server, client or host:port"):
        ClipClient("127.0.0.1:1", decode="gpu")


def test_pixels_travel_unchanged() -> None:
    info = EncoderInfo("encoder", "pixels", "embedding", "", 2, 4, {}, pixels=(2, 1, 3))
    rows = [bytes(range(6)), b""]
    for alone, count in ((False, 2), (True, 4)):
        request = service_pb2.ModelInferRequest.FromString(info.request_bytes(rows, alone=alone))
        pixels, valid = request.raw_input_contents
        assert [list(each.shape) for each in request.inputs] == [[count, 2, 1, 3], [count, 1]]
        assert np.frombuffer(pixels, np.uint8).reshape(count, 6)[0].tolist() == list(range(6))
        assert list(valid) == [1, *[0] * (count - 1)]
