"""Addresses that a server answers in odd ways: each photo is loaded or has its error. No secret is shown."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from clip_client import ItemError, SourceError, SourceOptions, open_source

_SOON = SourceOptions(connections=2, load_timeout_s=5.0, stall_timeout_s=5.0)
_LOGIN = "Basic dXNlcjpzZWNyZXQ="
"""user:secret."""


class Handler(BaseHTTPRequestHandler):
    """The path says how to answer."""

    asked: Counter[str]
    lines = b""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].strip("/")
        self.asked[path] += 1
        getattr(self, f"_{path.partition('.')[0]}", self._none)()

    def do_HEAD(self) -> None:
        path = self.path.partition("?")[0].strip("/")
        getattr(self, f"_{path.partition('.')[0]}", self._none)()

    def _answer(self, status: int, body: bytes = b"photo", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _none(self) -> None:
        self._answer(404)

    def _cut(self) -> None:
        self._answer(200, b"pho" if self.asked["cut"] < 2 else b"photo", Content_Length="5")

    def _busy(self) -> None:
        self._answer(429 if self.asked["busy"] < 2 else 200, Retry_After="1")

    def _closed(self) -> None:
        self._answer(503, Retry_After="3600")

    def _brackets(self) -> None:
        self._answer(302, Location="http://[bad/")

    def _dots(self) -> None:
        self._answer(302, Location="http://a..b/")

    def _length(self) -> None:
        self._answer(200, b"", Content_Length="\xb2")

    def _future(self) -> None:
        self._answer(200, Last_Modified="Fri, 31 Dec 9999 23:59:59 GMT")

    def _private(self) -> None:
        self._answer(200 if self.headers.get("Authorization") == _LOGIN else 401)

    def _list(self) -> None:
        self._answer(200, self.lines)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("NETRC", "/none")
    Handler.asked = Counter()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def loaded(address: str) -> bytes | ItemError:
    source = open_source(address, _SOON)
    (item,) = source.list()
    try:
        return source.load(item)
    except ItemError as error:
        return error


def error_of(address: str) -> ItemError:
    error = loaded(address)
    assert isinstance(error, ItemError)
    return error


def test_a_body_that_ends_too_early_is_loaded_again(url: str) -> None:
    assert loaded(f"{url}/cut") == b"photo"


def test_a_busy_server_is_asked_again_when_it_says(url: str) -> None:
    assert loaded(f"{url}/busy") == b"photo"
    assert Handler.asked["busy"] == 2
    error = error_of(f"{url}/closed")
    assert (error.code, Handler.asked["closed"]) == ("load_timeout", 1)
    assert "HTTP status 503" in error.text


@pytest.mark.parametrize("path", ["brackets", "dots"])
def test_a_redirect_to_an_address_that_is_none_is_an_error_of_the_photo(url: str, path: str) -> None:
    assert error_of(f"{url}/{path}").code == "load_failed"


def test_headers_that_make_no_sense_are_left_out(url: str) -> None:
    assert loaded(f"{url}/length") == b""
    (item,) = open_source(f"{url}/future").list()
    assert (item.size, item.mtime_ns) == (5, None), "no column of the output could hold that time"


def test_a_login_is_sent_and_never_shown(url: str) -> None:
    with_login = url.replace("//", "//user:secret@")
    source = open_source(f"{with_login}/private")
    assert (source.uri, loaded(f"{with_login}/private")) == (url, b"photo")
    error = error_of(f"{url}/private")
    assert error.code == "forbidden"
    assert ".netrc" in error.text
    assert "secret" not in error_of(f"{with_login}/none").text


def test_a_query_is_not_shown(url: str) -> None:
    assert "SIGNATURE" not in error_of(f"{url}/none?sig=SIGNATURE").text
    with pytest.raises(SourceError) as error:
        open_source(f"{url}/list_none.txt?sig=SIGNATURE").check()
    assert "SIGNATURE" not in str(error.value)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (b"a.jpg\nhttp://[bad/a.jpg\n", "is not an address"),
        (b"http://127.0.0.1:abc/a.jpg", "is not an address"),
        (b"http://other:secret@example.com/a.jpg", "a login of its own"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(
    url: str, lines: bytes, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Handler, "lines", lines)
    with pytest.raises(SourceError, match=said) as error:
        open_source(f"{url}/list.txt").check()
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("address", ["https://[bad/a.jpg", "http://host:abc/a.jpg", "http:///a.jpg"])
def test_an_address_that_is_none_is_a_source_error(address: str) -> None:
    with pytest.raises(SourceError, match=r"is not an address|no host name"):
        open_source(address)
