"""``python -m ingestor.main`` is the command ``bin/ingestor-live``."""

from __future__ import annotations

import sys

import ingestor.one_thread  # noqa: F401 (before NumPy)
from ingestor.live_cli import live_main

if __name__ == "__main__":
    sys.exit(live_main())
