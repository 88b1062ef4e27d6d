"""A replay: its job, in what order and at what pace it goes into the stream, and how it ends."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec

from ingestor.config.schema import Config, FeedName
from ingestor.feeds.databento.ingestor import DBNIngestor
from ingestor.feeds.polygon.journal_feed import JournalFeed, first_event_ns
from ingestor.journal.reader import find_segments
from ingestor.merge.ordering import WatermarkMerge
from ingestor.merge.steering import Steering
from ingestor.model.blocks import Source
from ingestor.model.errors import ExitCode
from ingestor.model.units import NS_PER_S
from ingestor.nats.options import ConnectOptions
from ingestor.publish.publisher import GIVE_UP_AFTER_S
from ingestor.runtime import keyboard
from ingestor.runtime.controller import Controller, Steered
from ingestor.runtime.feed_process import FeedSource, file_feed_main
from ingestor.runtime.machine import check_machine
from ingestor.runtime.metrics import listening, shown_by
from ingestor.runtime.nats_service import ControlService
from ingestor.runtime.progress_reporter import ReplayProgress
from ingestor.runtime.publisher_factory import (
    DEMO_DIR,
    checked_options,
    is_watched,
    make_publisher,
    server_of,
    tell_demo,
)
from ingestor.runtime.replay_feeds import MergedFiles, feed_sources
from ingestor.runtime.report import RunReport, Summary
from ingestor.runtime.resume import Resume
from ingestor.runtime.run import FeedPlan, Run, RunPlan
from ingestor.runtime.run_keeper import Keeping, begin
from ingestor.runtime.run_records import RunRecord, new_record, subjects_of
from ingestor.runtime.signals import noted
from ingestor.runtime.verification import Opening
from ingestor.sim.sample_day import write_sample_day

SAMPLE_DAY: Final = DEMO_DIR / "sample-day"
DEMO_DATE: Final = dt.date(2025, 12, 16)

_LOOK_S: Final = 0.1

HEADER_BYTES: Final = 65_536
"""How much of a file's beginning is digested."""

MAX_FILES_TOLD: Final = 100
"""Files that a record lists."""
_KEY_DIGITS: Final = 16

log = logging.getLogger(__name__)


class ReplayPublisher:
    """Replays DBN files and journals into JetStream, as the configuration says."""

    def __init__(self, config: Config, *, demo: bool = False) -> None:
        self._config = config
        self._demo = demo

    def run(self) -> RunReport:
        """Replay everything. Raises IngestorError for what is wrong before anything starts."""
        config = self._config
        check_machine(config.process)
        # A demo replays the made-up day, whatever else lies there.
        given = demo_config(config) if self._demo else config
        source = Source.SIM if self._demo else Source.REPLAY
        sources = feed_sources(given, given.replay.data_dir)
        feeds = feed_plans(config, sources, source)
        with (
            listening(config.metrics, demo=self._demo, steerable=config.replay.control) as listener,
            server_of(config, demo=self._demo) as server,
        ):
            options = checked_options(config.nats, server.url)
            record = _record_of(given, sources, source)
            if self._demo:
                tell_demo(server.url)
            opening = Opening(source, packed=config.publish.encoding == "packed")
            resume = Resume(sources, opening, config.replay.existing)
            # A demo in a server of its own has nobody to meet there.
            own = self._demo and config.nats.url is None
            keeping = None if own else begin(options, record, config.nats, resume.prepare)
            if keeping is not None and keeping.record.state == "done":
                return RunReport(summary=Summary(stream=keeping.record.stream))
            plan = _run_plan(config, feeds, options, keeping, _steered(config, options, record))
            metrics = shown_by(listener, config, options, keeping, live=False, demo=self._demo)
            run = Run(replace(plan, metrics=metrics))
            run.to_the_end((ExitCode.EMBEDDED_SERVER, server.problem))
            if self._demo and is_watched() and not (report := run.report()).exit_code:
                _stay(report)
                # As it was before: Ctrl-C now ends the look at the demo, not the replay.
                return report
        return run.report()


def _record_of(config: Config, sources: Mapping[FeedName, FeedSource], source: Source) -> RunRecord:
    """Return the record of a run that has just begun: its job, and the subjects that it writes."""
    job = _job_of(config, sources, source)
    files = job["files"]
    # A day may have very many files: the record tells of some, its key is made of all of them.
    more = {"more_files": len(files) - MAX_FILES_TOLD} if len(files) > MAX_FILES_TOLD else {}
    return new_record(
        "replay",
        config.nats.stream,
        feeds=tuple(sources),
        subjects=subjects_of(tuple(sources)),
        what={**job, "files": files[:MAX_FILES_TOLD], **more},
        job=hashlib.sha256(msgspec.json.encode(job)).hexdigest()[:_KEY_DIGITS],
    )


def _job_of(
    config: Config, sources: Mapping[FeedName, FeedSource], source: Source
) -> dict[str, Any]:
    """Return what makes the job, as plain values.

    A job is its files, dates, filters, encoding and feeds. Pace does not count, nor where the
    files lie: the order of what is published is the same. A file counts by its name, its size and a
    digest of its first bytes, in which its header stands.
    """
    replay = config.replay
    return {
        "files": [
            {"name": path.name, "size": path.stat().st_size, "header": _digest(path)}
            for feed in sources.values()
            for path in _paths(feed)
        ],
        "dates": [date.isoformat() for date in replay.dates],
        "start": replay.start,
        "end": replay.end,
        "symbols": sorted(replay.symbols),
        "rename": dict(sorted(replay.rename.items())),
        "feeds": list(sources),
        "encoding": config.publish.encoding,
        "source": source.value,
        "subjects": list(subjects_of(tuple(sources))),
        "stream": config.nats.stream,
    }


def _paths(source: FeedSource) -> Iterator[Path]:
    """Yield the files that a feed is read from."""
    if isinstance(source, MergedFiles):
        for lane in source.lanes:
            yield from _paths(lane)
    elif isinstance(source, DBNIngestor):
        yield from (file.path for file in source.files or ())
    elif isinstance(source, JournalFeed):
        readings = find_segments(source.directory, source.market, source.dates, first_event_ns)
        yield from (reading.segment.path_there for reading in readings)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.sha256(file.read(HEADER_BYTES)).hexdigest()[:_KEY_DIGITS]


def _run_plan(
    config: Config,
    feeds: Sequence[FeedPlan],
    options: ConnectOptions,
    keeping: Keeping | None,
    steered: Steered,
) -> RunPlan:
    return RunPlan(
        feeds=feeds,
        config=config,
        publisher=lambda again: make_publisher(
            config, options, keeping, give_up_after_s=GIVE_UP_AFTER_S, again=again
        ),
        merge=WatermarkMerge(len(feeds)),
        progress=lambda rows, publisher: ReplayProgress(
            rows,
            publisher,
            config.replay.speed,
            shortens=config.replay.max_gap_s is not None,
            steered=lambda: steered.controller.state,
        ),
        steered=steered,
        keeping=keeping,
    )


def _steered(config: Config, options: ConnectOptions, record: RunRecord) -> Steered:
    replay, controller = config.replay, Controller()
    gap_ns = None if replay.max_gap_s is None else int(replay.max_gap_s * NS_PER_S)
    service = ControlService(controller, options, record)
    return Steered(
        Steering(replay.speed, gap_ns, paused=replay.paused),
        controller,
        service.serve if replay.control else None,
    )


def _stay(report: RunReport) -> None:
    """Leave a demo's server there for whoever looks at it, until a signal."""
    events = f"{report.summary.published:,}"
    log.info("demo: all %s events are published; the server stays until Ctrl-C", events)
    while not noted():
        time.sleep(_LOOK_S)


def demo_config(config: Config) -> Config:
    """Return the configuration with the sample day, made where it is not there, as its data."""
    replay = config.replay
    replay = msgspec.structs.replace(replay, journal_dir=None, data_dir=_sample_day(), files=())
    return msgspec.structs.replace(config, replay=replay)


def _sample_day() -> Path:
    """Make the sample day once; later demos find it. One that is there is whole."""
    if not SAMPLE_DAY.exists():
        log.info("demo: making a sample day in %s", SAMPLE_DAY)
        unfinished = SAMPLE_DAY.with_name(f"sample-day-{os.getpid()}")
        try:
            write_sample_day(unfinished, DEMO_DATE)
            # Made beside and renamed: a demo that is killed leaves no half day to the next.
            with contextlib.suppress(OSError):  # another demo was faster
                unfinished.rename(SAMPLE_DAY)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return SAMPLE_DAY


def feed_plans(
    config: Config, sources: Mapping[FeedName, FeedSource], source: Source
) -> list[FeedPlan]:
    """Return a plan for each feed, whose events bear `source`."""
    process = config.process
    cpus = {
        "stocks": process.stocks_cpus,
        "options": process.options_cpus,
        "trades": process.trades_cpus,
        "mbp10": process.mbp10_cpus,
    }
    # Where nobody can seek, a feed whose files are read has nothing to wait for.
    stays = config.replay.control or keyboard.is_there()
    return [
        FeedPlan(name, file_feed_main(reader, stays=stays), source, cpus[name])
        for name, reader in sources.items()
    ]
