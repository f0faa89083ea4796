"""`clip-profile report`: a run as one HTML file that opens without a network.

`sections` computes what it shows; the templates lay it out. Colors are CSS variables with a light and a dark
set; each chart has two widths, and the page shows the one that fits.
"""

from __future__ import annotations

from pathlib import Path

from clip_profile.records.objective import Objective
from clip_profile.records.run_folder import RunFolder
from clip_profile.report.html import render
from clip_profile.report.sections import View
from clip_serving.files import write_atomically


def write_report(run: RunFolder, objective: Objective, path: Path) -> int:
    """Writes the page atomically; returns its size in bytes. Raises ProfileError for an empty run."""
    text = page(run, objective)
    write_atomically(path, text)
    return len(text.encode())


def page(run: RunFolder, objective: Objective) -> str:
    """The whole HTML."""
    return render("report.html", model=run.about.model, view=View(run, objective))
