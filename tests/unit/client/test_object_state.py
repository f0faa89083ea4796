"""The state by which an object without a generation is known to have changed."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from clip_client import ObjectInfo
from clip_client.sources.base import fingerprint
from clip_client.sources.object_store import _info


def described(**fields: Any) -> ObjectInfo:
    moment = datetime.fromtimestamp(5, timezone.utc)
    meta = {"path": "a", "size": 1, "e_tag": None, "version": None, "last_modified": moment, **fields}
    return _info(meta)


@given(st.text())
def test_a_fingerprint_is_a_positive_int64(tag: str) -> None:
    number = fingerprint(f"a{tag}")
    assert number is not None
    assert 0 <= number < 2**63


def test_an_etag_is_the_same_in_a_listing_and_in_an_answer() -> None:
    listed = described(e_tag="abc").generation
    assert listed == described(e_tag='"abc"').generation == described(e_tag='W/"abc"').generation
    assert listed == described(e_tag='"abc"', version="only named when loaded").generation
    assert listed != described(e_tag='"abd"').generation


def test_without_an_etag_the_version_decides_and_else_the_time() -> None:
    assert described(version="1").generation != described(version="2").generation
    assert described(version="1").mtime_ns is None
    assert (described().generation, described().mtime_ns) == (None, 5_000_000_000)
