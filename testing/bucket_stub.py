"""A bucket's HTTP API that misbehaves: it drips, stalls, or wants a project to bill."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from testing.waiting import PATIENCE_S

OBJECTS = {"body.jpg": "drip in the body", "head.jpg": "drip in the headers", "silent.jpg": "nothing at all"}
_DRIP_S = 0.05


class BucketStub(ThreadingHTTPServer):
    """Lists OBJECTS; loading one never ends, in the way that its value says.

    `must_bill` is the project that each request has to name; `is_listing_slow` drips the listing as well.
    `loading` is set once an object is being loaded.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.must_bill = ""
        self.is_listing_slow = False
        self.loading, self.closed = threading.Event(), threading.Event()


@contextmanager
def bucket_stub() -> Iterator[BucketStub]:
    with BucketStub() as stub:
        thread = threading.Thread(target=stub.serve_forever, args=(0.05,))
        thread.start()
        yield stub
        stub.closed.set()
        stub.shutdown()
        thread.join(PATIENCE_S)


class _Handler(BaseHTTPRequestHandler):
    server: BucketStub

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if self.server.must_bill not in parse_qs(url.query).get("userProject", [""]):
            text = "Bucket is a requester pays bucket but no user project provided."
            self._send(400, json.dumps({"error": {"code": 400, "message": text}}).encode())
        elif url.path.startswith("/download/"):
            self.server.loading.set()
            self._load(url.path.rpartition("/")[2])
        else:
            items = [{"name": name, "size": "5", "generation": "1"} for name in OBJECTS]
            body = json.dumps({"kind": "storage#objects", "items": items}).encode()
            if self.server.is_listing_slow:
                self._drip(self._head(200, len(body)) + body)
            else:
                self._send(200, body)

    def _load(self, name: str) -> None:
        match OBJECTS[name]:
            case "drip in the body":
                self.wfile.write(self._head(200, 1_000_000))
                self._drip(bytes(1_000_000))
            case "drip in the headers":
                self._drip(b"HTTP/1.1 200 OK\r\n" + b"X-Padding: 1\r\n" * 90_000)
            case _:
                self.server.closed.wait(PATIENCE_S)

    def _head(self, status: int, length: int) -> bytes:
        head = f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        return head.encode()

    def _send(self, status: int, body: bytes) -> None:
        self.wfile.write(self._head(status, len(body)) + body)

    def _drip(self, data: bytes) -> None:
        """A byte at a time, until the client has enough of it."""
        for position in range(len(data)):
            try:
                self.wfile.write(data[position : position + 1])
            except OSError:
                return
            if self.server.closed.wait(_DRIP_S):
                return

    def log_message(self, *_: object) -> None:
        """Writes nothing."""
