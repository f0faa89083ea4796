"""The project's Markdown pages: their code blocks, with how to test them, and their links.

An HTML comment in front of a block says how it is tested:

    <!-- test: run -->
    <!-- test: run; needs: embeddings.parquet; prints: cosine + unsupported_format -->
    <!-- test: skip; because: needs Docker -->
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

_BLOCK = re.compile(
    r"^(?: *<!-- test: (?P<test>[^\n]*?) -->\n)?"
    r"(?P<pad> *)```(?P<language>\w+)\n(?P<code>.*?)^(?P=pad)```$",
    re.M | re.S,
)
_FENCE = re.compile(r"^ *```.*?^ *```$", re.M | re.S)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+?)\s*$", re.M)


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    code: str
    test: str
    """`run`, `skip`, or empty if nothing says how it is tested."""
    needs: str
    """The file that it reads and no earlier block of its page writes."""
    prints: tuple[str, ...]
    """What its output contains."""

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """Every Markdown page that people read, in the repository's order."""
    found = [*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("docs/**/*.md")]
    return sorted(found, key=lambda path: (len(path.parts), path))


def blocks(page: Path) -> Iterator[Block]:
    """The page's code blocks in a named language, in their order."""
    text = page.read_text(encoding="utf-8")
    for match in _BLOCK.finditer(text):
        how, _, rest = (match["test"] or "").partition("; ")
        values = {"because": "", "needs": "", "prints": ""}
        while rest:
            key, _, rest = rest.partition(": ")
            values[key], _, rest = (rest, "", "") if key == "because" else rest.partition("; ")
        yield Block(
            page=page,
            line=text.count("\n", 0, match.start("pad")) + 1,
            language=match["language"],
            code=re.sub(f"^{match['pad']}", "", match["code"], flags=re.M),
            test=how,
            needs=values["needs"],
            prints=tuple(filter(None, values["prints"].split(" + "))),
        )


def links(page: Path) -> list[str]:
    """Targets of the page's links, outside of code blocks."""
    return _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))


def anchors(page: Path) -> set[str]:
    """The anchors of the page's headings, as GitHub and MkDocs both make them."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return {_slug(heading) for heading in _HEADING.findall(text)}


def _slug(heading: str) -> str:
    kept = re.sub(r"[^\w\- ]", "", heading.lower().replace("`", ""))
    return kept.strip().replace(" ", "-")
