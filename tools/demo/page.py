"""similar.html: each photo with its nearest neighbors, in one file that needs no network."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps

from clip_profile.report.html import render
from tools.demo.neighbors import Neighbors

_TEMPLATES = Path(__file__).parent / "templates"
_THUMBNAIL = 300


def write_page(
    path: Path,
    rows: Sequence[Neighbors],
    folder: Path,
    *,
    facts: Sequence[tuple[str, str]],
    failures: Sequence[tuple[str, str]] = (),
    warning: str = "",
    credits: str = "",
) -> None:
    """Writes the page; the photo of each name in `rows` is `folder`/name."""
    places = {row.name: number for number, row in enumerate(rows)}
    thumbnails = [(number, _thumbnail(folder / name)) for name, number in places.items()]
    cards = [
        (places[row.name], row.name, [(places[other], other, cosine) for other, cosine in row.nearest])
        for row in rows
    ]
    text = render(
        "similar.html",
        _TEMPLATES,
        thumbnails=[(number, uri) for number, uri in thumbnails if uri],
        cards=cards,
        facts=facts,
        failures=failures,
        warning=warning,
        credits=credits,
    )
    path.write_text(text, encoding="utf-8")


def _thumbnail(path: Path) -> str:
    """A data URI, the right way up; empty if Pillow cannot read the file."""
    try:
        with Image.open(path) as image:
            image.draft("RGB", (_THUMBNAIL * 2, _THUMBNAIL * 2))
            small = ImageOps.fit(ImageOps.exif_transpose(image).convert("RGB"), (_THUMBNAIL, _THUMBNAIL))
    except (OSError, ValueError, SyntaxError):
        return ""
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=78)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
