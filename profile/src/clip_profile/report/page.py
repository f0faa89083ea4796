"""`clip-profile report`: a run as one HTML file that opens with no network.

What it shows is in `sections`; this file puts it into a page. Colours are CSS variables with a light and
a dark set; charts are there in two widths, of which the page shows the one that fits.
"""

from __future__ import annotations

import html
import os
from pathlib import Path

from clip_profile.answer.recommend import recommend
from clip_profile.errors import ProfileError
from clip_profile.records.objective import Objective
from clip_profile.records.results import results_of
from clip_profile.records.run_folder import RunFolder
from clip_profile.report import sections
from clip_profile.report.over_time import over_time

_STYLE = """
:root { color-scheme: light dark; --back: #f6f6f8; --card: #fff; --ink: #1b1b1f; --soft: #5d5d68;
  --line: #e1e1e7; --accent: #2f5fd0; --mark: #b3261e; --dim: #a3a3b2;
  --transport: #8d8d99; --queue: #d9a032; --decode: #5b9e3c; --preprocess: #2f8f83; --embed: #4d6fd8;
  --memory: #a2559c; }
@media (prefers-color-scheme: dark) { :root { --back: #131316; --card: #1d1d22; --ink: #ececf1;
  --soft: #a5a5b1; --line: #32323b; --accent: #8ab0ff; --mark: #ff9b91; --dim: #6d6d7a;
  --transport: #85858f; --queue: #e0b354; --decode: #86c767; --preprocess: #55b8aa; --embed: #809df0;
  --memory: #d08fca; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 54rem; background: var(--back);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 0 0 .25rem; }
p { margin: .25rem 0 .75rem; } .soft, figcaption { color: var(--soft); font-size: .9rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: .75rem;
  padding: 1rem; margin: 1rem 0 0; min-width: 0; }
.answer { border-left: 5px solid var(--accent); } .answer p { margin: .3rem 0; }
.answer p:first-of-type { font-weight: 600; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); gap: .75rem;
  margin: 1rem 0 0; }
dt { font-size: .78rem; color: var(--soft); } dd { margin: 0; font-size: 1.15rem; font-weight: 600; }
dd small { font-size: .75rem; font-weight: 400; color: var(--soft); }
figure { margin: .5rem 0 0; } svg { display: block; max-width: 100%; height: auto; }
.narrow { display: none; }
@media (max-width: 52rem) { .wide { display: none; } .narrow { display: block; } }
.scroll { overflow-x: auto; max-height: 28rem; overflow-y: auto; }
table { border-collapse: collapse; font-size: .82rem; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: right; font-weight: 600; color: var(--soft); position: sticky; top: 0;
  background: var(--card); }
td, th { padding: .25rem .4rem; border-bottom: 1px solid var(--line); text-align: right; }
th { vertical-align: bottom; } td { vertical-align: top; white-space: nowrap; }
@media (max-width: 52rem) { td:first-child { white-space: normal; min-width: 7rem; } }
td:first-child, th:first-child { text-align: left; } tr.best td { color: var(--accent); font-weight: 600; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--back); border-radius: .5rem;
  padding: .6rem .75rem; font-size: .78rem; margin: .5rem 0; }
pre span { display: inline-block; max-width: 100%; }
li { overflow-wrap: anywhere; }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1rem; font-size: .82rem;
  color: var(--soft); margin: .25rem 0; }
.legend i { display: inline-block; width: .75em; height: .75em; border-radius: 50%; margin-right: .35em; }
text { font: 12px system-ui, sans-serif; fill: var(--soft); } text.axis { font-weight: 600; }
text.name { fill: var(--ink); } text.marked { font-weight: 700; fill: var(--accent); }
text.mark-text { fill: var(--mark); } .grid { stroke: var(--line); } .mark { stroke: var(--mark);
  stroke-dasharray: 4 3; } .error { stroke: var(--dim); stroke-width: 1.5; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.dot { fill: var(--dim); stroke: var(--card); stroke-width: 1; } .dot.repeated { fill: var(--preprocess); }
.dot.best { fill: var(--accent); stroke: var(--ink); stroke-width: 1.5; }
""" + "\n".join(
    f".bar.{name} {{ fill: var(--{name}); }} .line.{name} {{ stroke: var(--{name}); }} "
    f".legend i.{name} {{ background: var(--{name}); }}"
    for name in ("transport", "queue", "decode", "preprocess", "embed", "memory", "accent", "dim")
)


def write_report(run: RunFolder, objective: Objective, path: Path) -> int:
    """Writes the page, whole or not at all; returns its bytes. Raises ProfileError for an empty run."""
    text = page(run, objective)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
    return len(text.encode())


def page(run: RunFolder, objective: Objective) -> str:
    """The whole HTML."""
    found = recommend(run, objective)
    if found is None:
        raise ProfileError(f"{run.path} has no measurements yet")
    results = results_of(run)
    parts = [
        sections.answer(found),
        sections.scatter(results, found),
        sections.breakdown(results, found),
        over_time(found),
        sections.batches(found),
        sections.open_loop(results),
        sections.table(results, found),
        sections.failures(run),
        sections.reproduction(run, found),
    ]
    about = run.about
    title = f"clip-profile: {about.model}"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>
<h1>{html.escape(about.model)}, measured</h1>
<p class="soft">{html.escape(sections.subtitle(run))}</p>
{"".join(parts)}
</body></html>
"""
