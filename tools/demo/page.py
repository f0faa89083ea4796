"""similar.html: each photo beside its nearest neighbours, in one file that needs no network."""

from __future__ import annotations

import base64
import html
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

_THUMBNAIL = 224

_STYLE = """
:root { color-scheme: light dark; --back: #fafafa; --card: #fff; --ink: #1b1b1f; --soft: #6b6b76;
  --line: #e3e3e8; --warn: #b4231f; }
@media (prefers-color-scheme: dark) { :root { --back: #131316; --card: #1d1d22; --ink: #ececf1;
  --soft: #9b9ba6; --line: #2f2f37; --warn: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 72rem; background: var(--back);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; }
p { margin: .25rem 0 1rem; color: var(--soft); }
.warn { color: var(--warn); font-weight: 600; }
.row { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: .75rem; padding: .75rem;
  margin: 0 0 .75rem; background: var(--card); border: 1px solid var(--line); border-radius: .75rem; }
figure { margin: 0; min-width: 0; }
img { width: 100%; aspect-ratio: 1; object-fit: cover; border-radius: .5rem; display: block; }
figcaption { font-size: .8rem; color: var(--soft); overflow-wrap: anywhere; padding-top: .25rem; }
figure:first-child { border-right: 1px solid var(--line); padding-right: .75rem; }
figure:first-child figcaption { color: var(--ink); font-weight: 600; }
@media (max-width: 40rem) { .row { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  figure:first-child { border: 0; padding: 0; } }
"""


@dataclass(frozen=True)
class Neighbours:
    """A photo and its nearest others as (name, cosine), the nearest first."""

    name: str
    nearest: list[tuple[str, float]]


def write_page(
    path: Path, rows: list[Neighbours], photos: dict[str, bytes], *, model: str, warning: str
) -> None:
    """Writes the page; `photos` holds the encoded photo of every name in `rows`."""
    thumbnails = {name: _thumbnail(data) for name, data in photos.items()}
    body = "\n".join(_row(row, thumbnails) for row in rows)
    note = f'<p class="warn">{html.escape(warning)}</p>' if warning else ""
    path.write_text(
        f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Nearest neighbours</title><style>{_STYLE}</style>
<h1>Nearest neighbours</h1>
<p>{html.escape(model)}: each photo, then the three whose embeddings are closest to its own.</p>
{note}
{body}
</html>
""",
        encoding="utf-8",
    )


def _row(row: Neighbours, thumbnails: dict[str, str]) -> str:
    figures = [_figure(row.name, row.name, thumbnails)]
    figures += [_figure(name, f"{name} · {cosine:.3f}", thumbnails) for name, cosine in row.nearest]
    return f'<section class="row">{"".join(figures)}</section>'


def _figure(name: str, caption: str, thumbnails: dict[str, str]) -> str:
    return (
        f'<figure><img loading="lazy" alt="{html.escape(name)}" src="{thumbnails[name]}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _thumbnail(data: bytes) -> str:
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (_THUMBNAIL * 2, _THUMBNAIL * 2))
    small = ImageOps.fit(ImageOps.exif_transpose(image).convert("RGB"), (_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
