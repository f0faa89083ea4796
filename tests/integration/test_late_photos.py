"""A photo that a real server does not answer in time costs itself, and not the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from clip_client import ClipClient
from clip_serving.repository.stage import InstanceLayout
from clip_serving.server.embedded import ServerOptions
from testing.hanging import HANGING_PHOTO, hanging_repository
from testing.pictures import camera_photos
from testing.servers import short_lived
from testing.waiting import PATIENCE_S


@pytest.mark.slow  # it waits for two deadlines
def test_a_late_photo_gets_its_own_error(small_repository: Path, tmp_path: Path) -> None:
    gate = hanging_repository(small_repository, tmp_path / "late", decode_timeout_s=PATIENCE_S)
    photos = [*camera_photos(3, seed=1), HANGING_PHOTO, *camera_photos(3, seed=2)]
    options = ServerOptions(layout=InstanceLayout(4, 1, 1, 1))
    with short_lived(gate.repository, options) as server, gate.closed():
        with ClipClient(server.grpc_url, deadline_s=15, images_per_request=1) as client:
            results = client.embed_photos(photos)
        gate.wait_for_hanging(2)
    errors = [result.error.code if result.error else "" for result in results]
    assert errors == ["", "", "", "request_timeout", "", "", ""]
