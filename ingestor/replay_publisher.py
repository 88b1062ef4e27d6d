"""ReplayPublisher: the feeds of a replay, in one order, at a pace, into a stream. Wiring only.

``python -m ingestor.replay_publisher`` is the command ``bin/ingestor-replay``.
"""

from __future__ import annotations

import datetime as dt
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import ingestor.one_thread  # noqa: F401 (before NumPy)
from ingestor.config.schema import Config
from ingestor.feeds.databento.selection import Catalog
from ingestor.merge.horizon import HorizonMerge
from ingestor.merge.pace import Pacer
from ingestor.outcome import RunOutcome, replay_outcome
from ingestor.replay_feeds import feed_plans
from ingestor.runtime.connect import access_of, make_publisher
from ingestor.runtime.embedded_server import local_server
from ingestor.runtime.machine import check_machine
from ingestor.runtime.metrics import listening
from ingestor.runtime.progress import tell_replay
from ingestor.runtime.run import PublishPlan, RunPlan, run
from ingestor.sim.sample_day import write_sample_day
from ingestor.units import NS_PER_S

DEMO_DIR: Final = Path(".data/demo")
DEMO_DATE: Final = dt.date(2025, 12, 16)

log = logging.getLogger(__name__)


class ReplayPublisher:
    """Replays DBN files and journals into JetStream, as the configuration says."""

    def __init__(self, config: Config, *, demo: bool = False) -> None:
        self._config = config
        self._demo = demo

    def run(self) -> RunOutcome:
        """Replay everything. Raises IngestorError for what is wrong before anything starts."""
        check_machine(self._config.process)
        feeds = feed_plans(self._config, self._data_dir())
        speed, gap_s = self._config.replay.speed, self._config.replay.max_gap_s
        gap_ns = None if gap_s is None else int(gap_s * NS_PER_S)
        nats, store = self._config.nats, self._config.embedded.data_dir
        with listening(self._config.metrics) as metrics, local_server(nats.url, store) as server:
            access = access_of(nats, server.url)
            plan = PublishPlan(
                lambda: make_publisher(self._config, access),
                HorizonMerge(len(feeds)),
                Pacer(speed, gap_ns) if speed else None,
            )
            whole = RunPlan(feeds, plan, tell_replay, metrics=metrics)
            report = run(whole, self._config.process, self._config.log, server.problem)
        return replay_outcome(report)

    def _data_dir(self) -> Path:
        replay = self._config.replay
        if not self._demo or replay.files or replay.data_dir.is_file():
            return replay.data_dir
        return replay.data_dir if _has_data(replay.data_dir) else _sample_day()


def _has_data(folder: Path) -> bool:
    return folder.is_dir() and Catalog([folder]).has_files


def _sample_day() -> Path:
    """Make the sample day once; later demos find it."""
    if not _has_data(DEMO_DIR):
        log.info("there is no data: making a sample day in %s", DEMO_DIR)
        write_sample_day(DEMO_DIR, DEMO_DATE)
    return DEMO_DIR


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    from ingestor.cli import replay_main  # noqa: PLC0415  (the command line lies above this)

    return replay_main(arguments)


if __name__ == "__main__":
    sys.exit(main())
