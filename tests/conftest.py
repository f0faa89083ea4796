"""What holds for all tests."""

from __future__ import annotations

import signal

# A shell that starts `make test` in the background has Ctrl-C ignored, and every child inherits that:
# the tests that send a Ctrl-C to a program would then wait for nothing.
signal.signal(signal.SIGINT, signal.default_int_handler)
