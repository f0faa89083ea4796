"""Model repositories made for one test or one measurement."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

from clip_serving import defaults
from clip_serving.repository.render import write_repository
from clip_serving.repository.spec import SPEC_FILE, ModelSpec

Work = Literal["whole", "null"]
"""Everything, or everything but the model: the null encoder returns a constant vector."""
_NULL_MODEL = Path(__file__).parent / "null_encoder" / "model.py"


def make_repository(folder: Path, version: Path, work: Work) -> None:
    """A repository as this release renders it, around an exported encoder `version` or the null encoder."""
    encoder = folder / defaults.ENCODER
    encoder.mkdir(parents=True)
    if work == "whole":
        (encoder / "1").symlink_to(version.resolve())
    else:
        (encoder / "1").mkdir()
        shutil.copy(_NULL_MODEL, encoder / "1" / "model.py")
    write_repository(folder, ModelSpec.load(version / SPEC_FILE))
