"""`python -m clip_client.cli`."""

import sys

from clip_client.cli import main

sys.exit(main())
