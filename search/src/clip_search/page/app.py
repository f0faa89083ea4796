"""The page: a form, and the matches of a text, a photo or a row.

It is for the person at this machine. Other sites that this person visits must not use it: requests for other
host names are refused (DNS rebinding), and so are photos that another site's page sends. A photo is limited
in size before it is read.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from clip_client.errors import ClipClientError
from clip_search import defaults, images
from clip_search.errors import SearchError
from clip_search.page.embedder import Embedder
from clip_search.photos import Photos
from clip_search.query import Match, Searchable, find
from clip_search.sheet.contact import cards_of
from clip_search.sheet.html import render
from clip_search.vectors import Vectors

HOSTS = ["127.0.0.1", "localhost"]
SCRIPT = """
const form = document.getElementById('photo'), input = form.elements.photo;
input.addEventListener('change', () => form.requestSubmit());
addEventListener('dragover', event => { event.preventDefault(); form.classList.add('over'); });
addEventListener('dragleave', () => form.classList.remove('over'));
addEventListener('drop', event => {
  event.preventDefault();
  form.classList.remove('over');
  if (event.dataTransfer.files.length) { input.files = event.dataTransfer.files; form.requestSubmit(); }
});
"""
"""Sends a photo that is dropped or chosen. Without scripts, the button does."""
_HASH = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    f"script-src 'sha256-{_HASH}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Page:
    """What the page shows: `count` matches of a query in the dataset."""

    dataset: Searchable
    photos: Photos
    embedder: Embedder
    count: int

    def home(self, request: Request) -> Response:
        """The form; with ?q=TEXT or ?row=NUMBER, and the matches."""
        text, row = request.query_params.get("q", "").strip(), request.query_params.get("row")
        try:
            if row is not None:
                number = self._number(row)
                found = find(self.dataset, self.dataset.vector(number), self.count, without=[number])
                return self._shown(f"Photos like {self.dataset.row(number).name}", found)
            if text:
                return self._shown(text, self._nearest(self.embedder.text(text)), text=text)
        except (SearchError, ClipClientError) as error:
            return self._shown("", [], text=text, problem=str(error), status=422)
        return self._shown("", [])

    async def photo(self, request: Request) -> Response:
        """The matches of an uploaded photo."""
        _check_upload(request)
        async with request.form(max_files=1, max_fields=1) as form:
            upload = form.get("photo")
            data = await upload.read() if isinstance(upload, UploadFile) else b""
        return await run_in_threadpool(self._like, data)

    def _like(self, data: bytes) -> Response:
        try:
            found = self._nearest(self.embedder.photo(data))
        except (SearchError, ClipClientError) as error:
            return self._shown("", [], problem=str(error), status=422)
        return self._shown("Photos like this one", found, example=images.thumbnail(data))

    def _nearest(self, vector: Vectors) -> list[Match]:
        return find(self.dataset, vector, self.count)

    def _number(self, text: str) -> int:
        is_number = text.isascii() and text.isdigit() and len(text) <= len(str(len(self.dataset)))
        if not is_number or int(text) >= len(self.dataset):
            raise SearchError(f"the dataset has no row {text[:20]}")
        return int(text)

    def _shown(
        self, title: str, found: Sequence[Match], *, status: int = 200, problem: str = "", **more: Any
    ) -> Response:
        values = {"text": "", "example": "", **more}
        body = render(
            "search.html",
            title=title or "Search photos",
            is_answer=bool(title),
            cards=cards_of(found, self.photos),
            problem=problem,
            no_text=self.embedder.no_text(),
            dataset=self.dataset,
            script=Markup(SCRIPT),
            **values,
        )
        return HTMLResponse(body, status, _HEADERS)


def app_of(page: Page) -> Starlette:
    """The ASGI application. Raises SearchError without OpenCV."""
    images.require()
    return Starlette(
        routes=[Route("/", page.home), Route("/photo", page.photo, methods=["POST"])],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False)],
    )


def _check_upload(request: Request) -> None:
    """Raises HTTPException for another site's request, and for a body of unknown or too large a size."""
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != request.headers["host"]:
        raise HTTPException(403, "This page takes photos from itself alone.")
    length = request.headers.get("content-length", "")
    if not length.isdigit():
        raise HTTPException(411, "The size of the photo is missing.")
    if int(length) > defaults.UPLOAD_BYTES:
        raise HTTPException(413, f"The photo is larger than {defaults.UPLOAD_BYTES >> 20} MB.")
