"""ReplayPublisher: which files a replay has, and where they go. Wiring only.

``python -m ingestor.replay_publisher`` is the command ``bin/ingestor-replay``.
"""

from __future__ import annotations

import datetime as dt
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ingestor.blocks import Source
from ingestor.config.schema import Config, FeedName
from ingestor.feeds.databento.files import DbnSchema, find_files
from ingestor.feeds.databento.ingestor import DBNIngestor
from ingestor.merge.horizon import HorizonMerge
from ingestor.merge.pace import Pacer
from ingestor.outcome import RunOutcome, replay_outcome
from ingestor.runtime.connect import access_of, make_publisher
from ingestor.runtime.embedded_server import local_server
from ingestor.runtime.feed_process import moves
from ingestor.runtime.metrics import listening
from ingestor.runtime.progress import tell_replay
from ingestor.runtime.run import FeedPlan, PublishPlan, RunPlan, run
from ingestor.sim.sample_day import write_sample_day
from ingestor.units import NS_PER_S

FEED_ORDER: Final[tuple[FeedName, ...]] = ("trades", "mbp10")
"""Trades precede depth where whole keys tie."""

SCHEMAS: Final = {"trades": DbnSchema.TRADES, "mbp10": DbnSchema.MBP10}

DEMO_DIR: Final = Path(".data/demo")
DEMO_DATE: Final = dt.date(2025, 12, 16)

log = logging.getLogger(__name__)


class ReplayPublisher:
    """Replays DBN files into JetStream, as the configuration says."""

    def __init__(self, config: Config, *, demo: bool = False) -> None:
        self._config = config
        self._demo = demo

    def run(self) -> RunOutcome:
        """Replay everything. Raises IngestorError for what is wrong before anything starts."""
        feeds = self._feeds(self._data_dir())
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
        if not self._demo or any(replay.data_dir.glob("*/*.dbn*")):
            return replay.data_dir
        return _sample_day()

    def _feeds(self, data_dir: Path) -> list[FeedPlan]:
        process = self._config.process
        cpus = {"trades": process.trades_cpus, "mbp10": process.mbp10_cpus}
        return [
            FeedPlan(name, moves(self._source(data_dir, name)), Source.REPLAY, cpus[name])
            for name in FEED_ORDER
            if name in self._config.replay.feeds
        ]

    def _source(self, data_dir: Path, name: FeedName) -> DBNIngestor:
        """Return the reader of a feed. Raises NoDataError when a folder or file is missing."""
        replay, schema = self._config.replay, SCHEMAS[name]
        find_files(data_dir, schema, replay.dates)
        return DBNIngestor(
            data_dir=data_dir,
            schema=schema,
            dates=replay.dates,
            start=_wall_time(replay.start),
            end=_wall_time(replay.end),
            symbols=frozenset(replay.symbols),
            rename=replay.rename,
            block_bytes=self._config.process.block_bytes,
        )


def _wall_time(text: str | None) -> dt.time | None:
    return None if text is None else dt.time.fromisoformat(text)


def _sample_day() -> Path:
    """Make the sample day once; later demos find it."""
    if not any(DEMO_DIR.glob("*/*.dbn*")):
        log.info("there is no data: making a sample day in %s", DEMO_DIR)
        write_sample_day(DEMO_DIR, DEMO_DATE)
    return DEMO_DIR


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    from ingestor.cli import replay_main  # noqa: PLC0415  (the command line lies above this)

    return replay_main(arguments)


if __name__ == "__main__":
    sys.exit(main())
