"""`clip-profile report`: a run as one HTML file that opens without a network.

`sections` computes what it shows; the templates lay it out. Colours are CSS variables with a light and a dark
set; charts are there in two widths, of which the page shows the one that fits.
"""

from __future__ import annotations

from pathlib import Path

from clip_profile.answer.recommend import recommend
from clip_profile.records.objective import Objective
from clip_profile.records.results import results_of
from clip_profile.records.run_folder import RunFolder
from clip_profile.report import sections
from clip_profile.report.html import render
from clip_profile.report.timeline import timeline
from clip_serving.files import write_atomically


def write_report(run: RunFolder, objective: Objective, path: Path) -> int:
    """Writes the page atomically; returns its size in bytes. Raises ProfileError for an empty run."""
    text = page(run, objective)
    write_atomically(path, text)
    return len(text.encode())


def page(run: RunFolder, objective: Objective) -> str:
    """The whole HTML."""
    found = recommend(run, objective)
    results = results_of(run)
    names, common = sections.names_of([result.setting for result in results])
    parts = [
        sections.scatter(results, found, names),
        sections.breakdown(results, found, names, common),
        timeline(found),
        sections.batches(found),
        sections.open_loop(results, names),
        sections.table(results, found, names, common),
        sections.failures(run),
        sections.reproduction(run, found),
    ]
    return render(
        "report.html",
        model=run.about.model,
        subtitle=sections.subtitle(run),
        sentences=found.sentences(),
        tiles=sections.tiles(found),
        sections=[part for part in parts if part],
    )
