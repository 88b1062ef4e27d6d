"""``python -m ingestor.main`` is the command ``bin/ingestor-live``."""

from __future__ import annotations

import sys

from ingestor.live_cli import live_main

if __name__ == "__main__":
    sys.exit(live_main())
