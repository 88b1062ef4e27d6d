"""ReplayPublisher: the feeds of a replay, in one order, at a pace, into a stream. Wiring only.

``python -m ingestor.replay_publisher`` is the command ``bin/ingestor-replay``.
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that is heavy, so that signals are heard from the start
    from ingestor.runtime.signals import run_program

    run_program("ingestor-replay", "ingestor.cli.replay", "replay_main")

import contextlib
import dataclasses
import datetime as dt
import logging
import os
import shutil
from pathlib import Path
from typing import Final

import msgspec

import ingestor.runtime.blas_threads  # noqa: F401 (before NumPy)
from ingestor.config.schema import Config
from ingestor.merge.pace import Pacer
from ingestor.merge.watermark import WatermarkMerge
from ingestor.model.blocks import Source
from ingestor.model.errors import ExitCode
from ingestor.model.units import NS_PER_S
from ingestor.publish.publisher import GIVE_UP_AFTER_S
from ingestor.runtime.connect import DEMO_DIR, access_of, make_publisher, server_of
from ingestor.runtime.machine import check_machine
from ingestor.runtime.metrics import listening
from ingestor.runtime.outcome import RunOutcome, replay_outcome
from ingestor.runtime.progress import teller_of
from ingestor.runtime.replay_feeds import feed_plans
from ingestor.runtime.run import FeedPlan, PublishPlan, RunPlan, run, watching
from ingestor.sim.sample_day import write_sample_day

SAMPLE_DAY: Final = DEMO_DIR / "sample-day"
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
        feeds = self._feeds()
        speed, gap_s = self._config.replay.speed, self._config.replay.max_gap_s
        gap_ns = None if gap_s is None else int(gap_s * NS_PER_S)
        with (
            listening(self._config.metrics) as metrics,
            server_of(self._config, demo=self._demo) as server,
        ):
            access = access_of(self._config.nats, server.url)
            plan = PublishPlan(
                lambda: make_publisher(self._config, access, give_up_after_s=GIVE_UP_AFTER_S),
                WatermarkMerge(len(feeds)),
                Pacer(speed, gap_ns) if speed else None,
            )
            whole = RunPlan(
                feeds, plan, teller_of(speed, shortens=gap_ns is not None), metrics=metrics
            )
            watch = watching((ExitCode.EMBEDDED_SERVER, server.problem))
            report = run(whole, self._config.process, self._config.log, watch)
        return replay_outcome(report)

    def _feeds(self) -> list[FeedPlan]:
        """Return what is replayed; a demo is the made-up day, whatever else lies there."""
        config = self._config
        if not self._demo:
            return feed_plans(config, config.replay.data_dir)
        day = _sample_day()
        replay = msgspec.structs.replace(config.replay, journal_dir=None, data_dir=day, files=())
        feeds = feed_plans(msgspec.structs.replace(config, replay=replay), day)
        return [dataclasses.replace(feed, source=Source.SIM) for feed in feeds]


def _sample_day() -> Path:
    """Make the sample day once; later demos find it. One that is there is whole."""
    if not SAMPLE_DAY.exists():
        log.info("demo: making a sample day in %s", SAMPLE_DAY)
        unfinished = SAMPLE_DAY.with_name(f"sample-day-{os.getpid()}")
        try:
            write_sample_day(unfinished, DEMO_DATE)
            with contextlib.suppress(OSError):  # another demo was faster
                unfinished.rename(SAMPLE_DAY)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return SAMPLE_DAY
