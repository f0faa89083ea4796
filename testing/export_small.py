"""`python -m testing.export_small ARG...`: clip-export, which also knows the small towers of testing/towers.

ViT-tiny-32 has ViT-B-32's inputs and outputs at 1/240 of its size. A server of it is ready in a third of
the time and embeds for nearly nothing, so tests use it unless they are about the embeddings themselves.
"""

from __future__ import annotations

import sys
from pathlib import Path

import open_clip

from clip_export.cli import main

TOWERS = Path(__file__).parent / "towers"

if __name__ == "__main__":
    open_clip.add_model_config(TOWERS)
    sys.exit(main())
