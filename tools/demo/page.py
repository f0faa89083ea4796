"""similar.html: each photo with its nearest neighbours, in one file that needs no network."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps

from tools.demo.neighbours import Neighbours

_THUMBNAIL = 300

_STYLE = """
:root { color-scheme: light dark; --back: #f6f6f8; --card: #fff; --ink: #1b1b1f; --soft: #62626d;
  --line: #e1e1e7; --warn: #a3201c; --warn-back: #fdecea; --bar: #3f6fd9; }
@media (prefers-color-scheme: dark) { :root { --back: #131316; --card: #1d1d22; --ink: #ececf1;
  --soft: #a0a0ab; --line: #303038; --warn: #ffb4ab; --warn-back: #3b1d1b; --bar: #8ab0ff; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 78rem; background: var(--back);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p { margin: .25rem 0 1rem; color: var(--soft); }
dl { display: flex; flex-wrap: wrap; gap: .5rem 2rem; margin: 0 0 1.25rem; }
dt { font-size: .75rem; color: var(--soft); } dd { margin: 0; font-weight: 600; }
.warn { color: var(--warn); background: var(--warn-back); border-radius: .5rem; padding: .75rem 1rem; }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .75rem; padding: .75rem;
  min-width: 0; }
.card:target { outline: 3px solid var(--bar); }
.photo { display: block; width: 100%; aspect-ratio: 1; border-radius: .5rem; background: var(--line)
  center / cover; }
h3 { font-size: .9rem; margin: .5rem 0 .6rem; overflow-wrap: anywhere; }
.near { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: .5rem; }
.near a { color: inherit; text-decoration: none; font-size: .72rem; line-height: 1.3; min-width: 0;
  overflow-wrap: anywhere; }
.near b { display: block; margin-top: .25rem; font-variant-numeric: tabular-nums; }
.near span { color: var(--soft); }
li { overflow-wrap: anywhere; } code { font-size: .9em; }
footer { margin-top: 2rem; font-size: .8rem; color: var(--soft); }
"""


def write_page(
    path: Path,
    rows: Sequence[Neighbours],
    folder: Path,
    *,
    facts: Sequence[tuple[str, str]],
    failures: Sequence[tuple[str, str]] = (),
    warning: str = "",
    credits: str = "",
) -> None:
    """Writes the page; the photo of each name in `rows` is `folder`/name."""
    places = {row.name: number for number, row in enumerate(rows)}
    thumbnails = "\n".join(
        f".p{number} {{ background-image: url({uri}); }}"
        for name, number in places.items()
        if (uri := _thumbnail(folder / name))
    )
    terms = "".join(f"<div><dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd></div>" for k, v in facts)
    note = f'<p class="warn" role="note">{html.escape(warning)}</p>' if warning else ""
    cards = "\n".join(_card(row, places) for row in rows)
    failed = "".join(
        f"<li><code>{html.escape(name)}</code> {html.escape(reason)}</li>" for name, reason in failures
    )
    path.write_text(
        f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Nearest neighbours</title><style>{_STYLE}{thumbnails}</style></head><body>
<h1>Nearest neighbours</h1>
<p>Each photo, and below it the three whose embeddings are closest to its own, with the cosine.
A click on a neighbour goes to its card.</p>
<dl>{terms}</dl>
{note}
<main class="grid">
{cards}
</main>
{f"<h2>Not embedded</h2><ul>{failed}</ul>" if failed else ""}
{f"<footer>{html.escape(credits)}</footer>" if credits else ""}
</body></html>
""",
        encoding="utf-8",
    )


def _card(row: Neighbours, places: dict[str, int]) -> str:
    number, name = places[row.name], html.escape(row.name)
    near = "".join(
        f'<a href="#c{places[other]}">{_photo(places[other], html.escape(other))}'
        f"<b>{cosine:.3f}</b><span>{html.escape(other)}</span></a>"
        for other, cosine in row.nearest
    )
    return (
        f'<article class="card" id="c{number}">{_photo(number, name)}<h3>{name}</h3>'
        f'<div class="near">{near}</div></article>'
    )


def _photo(number: int, label: str) -> str:
    """A photo occurs up to many times and is stored once, as a background in the style sheet."""
    return f'<span class="photo p{number}" role="img" aria-label="{label}"></span>'


def _thumbnail(path: Path) -> str:
    """A data URI, the right way up; empty where Pillow cannot read what the server could."""
    try:
        with Image.open(path) as image:
            image.draft("RGB", (_THUMBNAIL * 2, _THUMBNAIL * 2))
            small = ImageOps.fit(ImageOps.exif_transpose(image).convert("RGB"), (_THUMBNAIL, _THUMBNAIL))
    except (OSError, ValueError, SyntaxError):
        return ""
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=78)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
