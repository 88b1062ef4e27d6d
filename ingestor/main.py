"""``python -m ingestor.main`` is the command ``bin/ingestor-live``."""

from __future__ import annotations

from ingestor.runtime.signals import run_program

if __name__ == "__main__":
    run_program("ingestor-live", "ingestor.cli.live", "main")
