"""What reads each feed of a replay: DBN files, merged where they overlap in time, or a journal.

The feeds are those that are named, else those that there is data for.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Final

from ingestor.config.schema import Config, FeedName, Replay
from ingestor.feeds.databento.files import DbnSchema, days_of
from ingestor.feeds.databento.ingestor import DBNIngestor
from ingestor.feeds.databento.selection import Catalog
from ingestor.feeds.databento.symbology import SymbolFilter
from ingestor.feeds.polygon.journal_feed import JournalFeed, first_event_ns
from ingestor.journal.format import Market
from ingestor.journal.reader import dates_recorded, find_segments
from ingestor.merge.ordering import WatermarkMerge
from ingestor.model.blocks import Block, Runs
from ingestor.model.errors import ConfigurationError, IngestorError, NoDataError
from ingestor.model.symbols import SymbolTable
from ingestor.model.units import dates_text
from ingestor.runtime.feed_process import FeedSource

log = logging.getLogger(__name__)

FEED_ORDER: Final[tuple[FeedName, ...]] = ("stocks", "options", "trades", "mbp10")
"""Where whole keys tie, trades precede depth, and an underlying its options."""

SCHEMAS: Final[dict[FeedName, DbnSchema]] = {
    "trades": DbnSchema.TRADES,
    "mbp10": DbnSchema.MBP10,
}
MARKETS: Final[dict[FeedName, Market]] = {"stocks": Market.STOCKS, "options": Market.OPTIONS}

MIN_LANE_BYTES: Final = 64 * 1024
"""A lane's block is never smaller, since a step of the merge costs the same for few rows."""


def feed_sources(config: Config, data_dir: Path) -> dict[FeedName, FeedSource]:
    """Return what reads each feed, in `FEED_ORDER`; DBN files are those named, else `data_dir`'s.

    Raises `NoDataError` when a folder or a date is missing, `ConfigurationError` when a feed is
    named that only a journal has, and there is none.
    """
    replay = config.replay
    named = _named(replay)
    places = replay.files or (data_dir,)
    files_named = any(name in SCHEMAS for name in named)
    catalog = _catalog(places, needed=replay.journal_dir is None or files_named)
    wanted = named or _wanted(replay, catalog, places)
    sources = {name: _source(config, catalog, name, wanted) for name in wanted}
    if catalog is not None:
        catalog.tell_unused()
    return sources


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


def lane_bytes(block_bytes: int, lanes: int) -> int:
    """Return the size of each lane's blocks."""
    return min(block_bytes, max(MIN_LANE_BYTES, block_bytes // lanes))


@dataclass(frozen=True, slots=True)
class MergedProgress:
    """How far all lanes have come, taken together."""

    bytes_total: int
    bytes_read: int
    skipped: Mapping[str, int]
    late: int


class _Tables:
    """Symbol tables of all lanes as one, which grows until an instrument gets another symbol."""

    def __init__(self) -> None:
        self._whole: dict[int, str] = {}
        self._known: dict[int, tuple[SymbolTable, int]] = {}

    def joined(self, blocks: Sequence[Block]) -> SymbolTable | None:
        """Return one table for all; None where they give an instrument different symbols."""
        if not all(map(self._add, blocks)):
            self._whole, self._known = {}, {}
            if not all(map(self._add, blocks)):
                self._whole, self._known = {}, {}
                return None
        return self._whole

    def _add(self, block: Block) -> bool:
        """Add what is new in a block's table; False when it contradicts what is there."""
        table, count = self._known.get(block.feed, ({}, 0))
        if table is not block.symbols:
            table, count = block.symbols, 0
        if count < len(table):
            for instrument, symbol in islice(table.items(), count, None):
                if self._whole.setdefault(instrument, symbol) != symbol:
                    return False
            self._known[block.feed] = table, len(table)
        return True


@dataclass(eq=False, slots=True)
class MergedFiles:
    """Merges `lanes`, each of which yields records of one dtype, into blocks of `block_bytes`.

    Where keys tie, the lane that stands first goes first. A lane that breaks ends; the others are
    read to their end, and then its error is raised. `at_end` may raise what concerns all of them.
    """

    lanes: Sequence[FeedSource]
    block_bytes: int
    at_end: Callable[[], None] = lambda: None
    _tables: _Tables = field(default_factory=_Tables, init=False)

    @property
    def progress(self) -> MergedProgress:
        """The sums of the lanes' counts."""
        each = [lane.progress for lane in self.lanes]
        skipped: Counter[str] = Counter()
        for progress in each:
            skipped.update(progress.skipped)
        return MergedProgress(
            sum(progress.bytes_total for progress in each),
            sum(progress.bytes_read for progress in each),
            skipped,
            sum(progress.late for progress in each),
        )

    def start_at(self, at_ns: int | None) -> None:
        """Have every lane begin at a time."""
        for lane in self.lanes:
            lane.start_at(at_ns)

    def span_ns(self) -> tuple[int, int] | None:
        """Return what covers all lanes; None where one of them does not know."""
        each = [span_ns for lane in self.lanes if (span_ns := lane.span_ns()) is not None]
        if len(each) < len(self.lanes):
            return None
        return min(first_ns for first_ns, _ in each), max(ends_ns for _, ends_ns in each)

    def blocks(self) -> Iterator[Block]:
        """Yield blocks in order, empty ones as signs of life; each is valid until the next."""
        merge = WatermarkMerge(len(self.lanes))
        runs = [lane.blocks() for lane in self.lanes]
        broken: IngestorError | None = None
        while not merge.done:
            for lane in merge.waiting_for():
                try:
                    block = next(runs[lane], None)
                except IngestorError as error:
                    broken, block = broken or error, None
                if block is None:
                    merge.end(lane)
                    continue
                # The merge holds a view: the next block is asked for only when this is used up.
                merge.push(replace(block, feed=lane))
                yield replace(block, records=block.records[:0])
            ordered = merge.pull()
            if ordered is not None:
                yield from self._joined(ordered)
        if broken is not None:
            raise broken
        self.at_end()

    def _joined(self, runs: Runs) -> Iterator[Block]:
        table = self._tables.joined(runs.blocks)
        if table is None or len(runs.start) == 1:
            for block, records in runs.pieces():
                symbols = block.symbols if table is None else table
                yield Block(0, records, symbols, block.source, block.in_order)
            return
        records = runs.gathered()
        step = max(1, self.block_bytes // records.itemsize)
        for start in range(0, len(records), step):
            yield Block(0, records[start : start + step], table, runs.blocks[0].source)
