"""`ReplayPublisher`: recorded days in one order, at a pace, into a stream.

``python -m ingestor.replay_publisher`` is the command ``bin/ingestor-replay``.
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that is heavy, so that signals are heard from the start
    from ingestor.runtime.signals import run_program

    run_program("ingestor-replay", "ingestor.cli.replay", "main")

from ingestor.runtime.replay_run import ReplayPublisher

__all__ = ["ReplayPublisher"]
