"""``python -m ingestor.test_stream``: the test client; see `ingestor.cli.stream_check`."""

from __future__ import annotations

from ingestor.runtime.signals import run_program

if __name__ == "__main__":
    run_program("ingestor.test_stream", "ingestor.cli.stream_check", "main")
