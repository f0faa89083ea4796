"""`python -m testing.export_small ARG...`: clip-export that also knows the models of testing/towers."""

from __future__ import annotations

import sys

from clip_export.cli import main
from testing import towers

if __name__ == "__main__":
    towers.register()
    sys.exit(main())
