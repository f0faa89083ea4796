"""The page of clip-search serve, without a CLIP server and without a browser."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest

from clip_search import defaults
from clip_search.cli import main
from testing.waiting import PATIENCE_S
from tests.unit.search.datasets import units, write
from tests.unit.search.pages import HOSTILE, served

NOBODY = "127.0.0.1:9"
"""Where no server listens."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """a.jpg and photos with hostile names; only a.jpg exists."""
    folder = tmp_path_factory.mktemp("page")
    cv2.imwrite(str(folder / "a.jpg"), np.full((40, 60, 3), 128, np.uint8))
    names = ["a.jpg", *HOSTILE]
    vectors = units([[1, number / 10, 0, 0] for number in range(len(names))])
    path = write(folder / "e.parquet", names, vectors, source=[str(folder)] * len(names))
    with served(path, "--url", NOBODY) as address:
        yield address


def ask(
    page: str, path: str = "/", method: str = "GET", body: bytes | None = None, **headers: str
) -> tuple[int, str, Mapping[str, str]]:
    connection = http.client.HTTPConnection(urlsplit(page).netloc, timeout=PATIENCE_S)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, named)
    answer = connection.getresponse()
    found = answer.status, answer.read().decode(), dict(answer.getheaders())
    connection.close()
    return found


def upload(page: str, data: bytes, **headers: str) -> tuple[int, str, Mapping[str, str]]:
    body = (
        b'--x\r\nContent-Disposition: form-data; name="photo"; filename="a.jpg"\r\n\r\n'
        + data
        + b"\r\n--x--\r\n"
    )
    return ask(page, "/photo", "POST", body, content_type="multipart/form-data; boundary=x", **headers)


class Parts(HTMLParser):
    """The names of a page's tags and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]


def test_the_form_says_why_it_cannot_search_texts(page: str) -> None:
    status, text, headers = ask(page)
    assert status == 200
    assert "7 photos in e.parquet" in text
    assert f"cannot connect to {NOBODY}" in text
    assert 'name="q"' in text
    assert "default-src 'none'" in headers["content-security-policy"]


def test_rows_are_found_and_names_are_harmless(page: str) -> None:
    status, text, _ = ask(page, "/?row=1")
    assert status == 200
    assert text.count("<figure") == len(HOSTILE)  # all but the query's row
    assert text.count("<img") == 1  # a.jpg
    parts = Parts()
    parts.feed(text)
    assert parts.tags.count("script") == 1
    assert not [name for name in parts.attributes if name.startswith("on")]
    assert "49.jpg" not in text
    for character in "\x1b\x07\u202e\u200b":
        assert character not in text
    assert "\\x1b[31mred" in text


@pytest.mark.parametrize("row", ["7", "-1", "x", "1" * 5000, ""])
def test_rows_that_are_not_there(row: str, page: str) -> None:
    status, text, _ = ask(page, f"/?row={row}")
    assert (status, "the dataset has no row" in text) == (422, True)


def test_queries_without_a_server_say_so(page: str) -> None:
    for status, text, _ in (ask(page, "/?q=a+dog"), upload(page, b"photo")):
        assert (status, f"cannot connect to {NOBODY}" in text) == (422, True)
    status, text, _ = upload(page, b"")
    assert (status, "choose a photo first" in text) == (422, True)


@pytest.mark.parametrize(
    "host", ["attacker.example", "attacker.example:80", "127.0.0.1.attacker.example", ""]
)
def test_other_host_names_are_refused(host: str, page: str) -> None:
    """A site that resolves its own name to 127.0.0.1 must not read the photos."""
    status, text, _ = ask(page, "/?row=1", host=host)
    assert (status, "a.jpg" in text) == (400, False)


def test_photos_from_other_sites_and_of_any_size_are_refused(page: str) -> None:
    own = page.rstrip("/")
    assert upload(page, b"photo", origin=own)[0] == 422  # accepted: no server embeds it
    for origin in ("https://attacker.example", "null", "http://127.0.0.1:1"):
        assert upload(page, b"photo", origin=origin)[0] == 403
    assert ask(page, "/photo", "POST", content_length=str(defaults.UPLOAD_BYTES + 1))[0] == 413
    assert ask(page, "/photo", "POST", transfer_encoding="chunked")[0] == 411


def test_a_port_in_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "e.parquet", ["a"], units([[1, 0]]))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", str(path), "--port", str(port), "--url", NOBODY]) == 2
    assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err
