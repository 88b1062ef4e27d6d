"""A replay: which feeds it has, in what order and at what pace they go into the stream.

The feeds are those that are named, else those that there is data for.
"""

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

from ingestor.config.schema import Config, FeedName, Replay
from ingestor.feeds.databento.files import DbnSchema, days_of
from ingestor.feeds.databento.ingestor import DBNIngestor
from ingestor.feeds.databento.selection import Catalog
from ingestor.feeds.databento.symbology import SymbolFilter
from ingestor.feeds.polygon.journal_feed import JournalFeed, first_event_ns
from ingestor.journal.format import Market
from ingestor.journal.reader import dates_recorded, find_segments
from ingestor.merge.ordering import WatermarkMerge
from ingestor.merge.steering import Steering
from ingestor.model.blocks import Source
from ingestor.model.errors import ConfigurationError, ExitCode, NoDataError
from ingestor.model.units import NS_PER_S, dates_text
from ingestor.nats.options import ConnectOptions
from ingestor.publish.publisher import GIVE_UP_AFTER_S
from ingestor.runtime import keyboard
from ingestor.runtime.control_service import ControlService
from ingestor.runtime.controller import Controller, Steered
from ingestor.runtime.feed_process import FeedSource, MergedFiles, file_feed_main, lane_bytes
from ingestor.runtime.machine import check_machine
from ingestor.runtime.metrics import listening, shown_by
from ingestor.runtime.progress_reporter import ReplayProgress
from ingestor.runtime.publisher_factory import (
    DEMO_DIR,
    checked_options,
    is_watched,
    make_publisher,
    server_of,
    tell_demo,
)
from ingestor.runtime.report import RunReport, Summary
from ingestor.runtime.resume import Resume
from ingestor.runtime.run import FeedPlan, Run, RunPlan
from ingestor.runtime.run_keeper import Keeping, begin
from ingestor.runtime.run_records import RunRecord, new_record, subjects_of
from ingestor.runtime.signals import noted
from ingestor.runtime.verification import Opening
from ingestor.sim.sample_day import write_sample_day

FEED_ORDER: Final[tuple[FeedName, ...]] = ("stocks", "options", "trades", "mbp10")
"""Where whole keys tie, trades precede depth, and an underlying its options."""

SCHEMAS: Final[dict[FeedName, DbnSchema]] = {
    "trades": DbnSchema.TRADES,
    "mbp10": DbnSchema.MBP10,
}
MARKETS: Final[dict[FeedName, Market]] = {"stocks": Market.STOCKS, "options": Market.OPTIONS}

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


def feed_sources(config: Config, data_dir: Path) -> dict[FeedName, FeedSource]:
    """Return what reads each feed, in `FEED_ORDER`; DBN files are those named, else `data_dir`'s.

    Raises `NoDataError` when a folder or a date is missing, `ConfigurationError` when a feed is
    named that only a journal has, and there is none.
    """
    replay = config.replay
    named = _named(replay)
    places = replay.files or (data_dir,)
    catalog = _catalog(places, needed=replay.journal_dir is None or any_files(named))
    wanted = named or _wanted(replay, catalog, places)
    sources = {name: _source(config, catalog, name, wanted) for name in wanted}
    if catalog is not None:
        catalog.tell_unused()
    return sources


def any_files(feeds: Sequence[FeedName]) -> bool:
    """Tell whether one of the feeds is read from DBN files."""
    return any(name in SCHEMAS for name in feeds)


def _catalog(places: Sequence[Path], *, needed: bool) -> Catalog | None:
    try:
        return Catalog(places)
    except NoDataError:
        if needed:
            raise
        return None


def _wanted(replay: Replay, catalog: Catalog | None, places: Sequence[Path]) -> list[FeedName]:
    if replay.journal_dir is None:
        return _of_files(catalog, places)
    recorded = {
        name: dates_recorded(replay.journal_dir, MARKETS[name], first_event_ns) for name in MARKETS
    }
    found = recorded | {
        name: [] if catalog is None else catalog.dates(schema) for name, schema in SCHEMAS.items()
    }
    asked = set(replay.dates)
    wanted = [
        name for name in FEED_ORDER if (asked.intersection(found[name]) if asked else found[name])
    ]
    if not any(name in MARKETS for name in wanted):
        raise NoDataError(_nothing_recorded(replay.journal_dir, replay.dates, recorded))
    left_out = [name for name in FEED_ORDER if name not in wanted]
    log.info(
        "replaying %s%s",
        ", ".join(wanted),
        f"; there is nothing of {', '.join(left_out)}" if left_out else "",
    )
    return wanted


def _of_files(catalog: Catalog | None, places: Sequence[Path]) -> list[FeedName]:
    """Both feeds of a folder; of files that are named, what they hold."""
    both = [name for name in FEED_ORDER if name in SCHEMAS]
    if catalog is None or any(place.is_dir() for place in places):
        return both
    there = catalog.schemas()
    return [name for name in both if SCHEMAS[name] in there] or both


def _named(replay: Replay) -> list[FeedName]:
    recorded = [name for name in replay.feeds if name in MARKETS]
    if recorded and replay.journal_dir is None:
        raise ConfigurationError(
            f"replay.feeds names {', '.join(recorded)}, which only a journal has: name its folder"
            " with --journal or replay.journal_dir"
        )
    return [name for name in FEED_ORDER if name in replay.feeds]


def _nothing_recorded(
    journal_dir: Path, dates: Sequence[dt.date], recorded: dict[FeedName, list[dt.date]]
) -> str:
    there = sorted({date for dates_of_feed in recorded.values() for date in dates_of_feed})
    if not there:
        return (
            f"{journal_dir} holds no journal: no file is named stocks-YYYYMMDD-NNNNNN.journal[.zst]"
            " or options-..."
        )
    return (
        f"the journal in {journal_dir} holds nothing of {dates_text(sorted(dates))}; dates there "
        f"are: {dates_text(there)}"
    )


def _source(
    config: Config, catalog: Catalog | None, name: FeedName, feeds: Sequence[FeedName]
) -> FeedSource:
    """Return the reader of a feed. Raises `NoDataError` when a folder, a file or a date lacks."""
    if catalog is None or name in MARKETS:
        return _journal(config, name)
    others = [feed for feed in feeds if feed != name]
    # A symbol that another feed bears is no mistake here.
    elsewhere = _borne_by(others, config.replay, catalog) if config.replay.symbols else frozenset()
    return _files(config, catalog, SCHEMAS[name], elsewhere)


def _borne_by(feeds: Sequence[FeedName], replay: Replay, catalog: Catalog) -> frozenset[str]:
    """Return the symbols asked for that these feeds bear; what a journal bears nobody knows."""
    asked = frozenset(replay.symbols)
    if any(feed in MARKETS for feed in feeds):
        return asked
    names = {name for feed in feeds for name in catalog.names(SCHEMAS[feed], replay.dates)}
    return asked & (names | {replay.rename.get(name, name) for name in names})


def _files(
    config: Config, catalog: Catalog, schema: DbnSchema, elsewhere: frozenset[str]
) -> FeedSource:
    """Return what reads the files of a schema, merged where they overlap in time."""
    replay, block_bytes = config.replay, config.process.block_bytes
    lanes = catalog.lanes(schema, replay.dates)
    each_bytes = lane_bytes(block_bytes, len(lanes))
    symbol_filter = SymbolFilter(replay.symbols, replay.rename, elsewhere)
    sources = [
        DBNIngestor(
            data_dir=replay.data_dir,
            schema=schema,
            dates=replay.dates or days_of(file for lane in lanes for file in lane),
            files=lane,
            start=_wall_time(replay.start),
            end=_wall_time(replay.end),
            symbols=frozenset(replay.symbols),
            elsewhere=elsewhere,
            symbol_filter=symbol_filter if len(lanes) > 1 else None,
            rename=replay.rename,
            block_bytes=each_bytes,
        )
        for lane in lanes
    ]
    if len(sources) == 1:
        return sources[0]
    return MergedFiles(sources, block_bytes, symbol_filter.check)


def _journal(config: Config, name: FeedName) -> FeedSource:
    replay, market = config.replay, MARKETS[name]
    directory = replay.journal_dir or Path()
    find_segments(directory, market, replay.dates, first_event_ns)
    return JournalFeed(
        directory=directory,
        market=market,
        dates=replay.dates,
        start=_wall_time(replay.start),
        end=_wall_time(replay.end),
        symbols=frozenset(replay.symbols),
        block_bytes=config.process.block_bytes,
    )


def _wall_time(text: str | None) -> dt.time | None:
    return None if text is None else dt.time.fromisoformat(text)
