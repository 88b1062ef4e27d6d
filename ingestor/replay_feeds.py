"""Which feeds a replay has: those that are named, else those that there is data for."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ingestor.blocks import Source
from ingestor.config.schema import Config, FeedName, Replay
from ingestor.errors import ConfigurationError, NoDataError
from ingestor.feeds.databento.files import DbnSchema, available_dates, find_files
from ingestor.feeds.databento.ingestor import DBNIngestor
from ingestor.feeds.dates import shortened
from ingestor.feeds.polygon.journal.days import dates_recorded, find_segments
from ingestor.feeds.polygon.journal.feed import JournalFeed
from ingestor.feeds.polygon.journal.format import Market
from ingestor.runtime.feed_process import FeedSource, moves
from ingestor.runtime.run import FeedPlan

FEED_ORDER: Final[tuple[FeedName, ...]] = ("stocks", "options", "trades", "mbp10")
"""Where whole keys tie, trades precede depth, and an underlying its options."""

SCHEMAS: Final[dict[FeedName, DbnSchema]] = {
    "trades": DbnSchema.TRADES,
    "mbp10": DbnSchema.MBP10,
}
MARKETS: Final[dict[FeedName, Market]] = {"stocks": Market.STOCKS, "options": Market.OPTIONS}

log = logging.getLogger(__name__)


def feed_plans(config: Config, data_dir: Path) -> list[FeedPlan]:
    """Return the feeds in `FEED_ORDER`, DBN files from `data_dir`.

    Raises `NoDataError` when a folder or a date is missing, `ConfigurationError` when a feed is
    named that only a journal has, and there is none.
    """
    process = config.process
    cpus = {
        "stocks": process.stocks_cpus,
        "options": process.options_cpus,
        "trades": process.trades_cpus,
        "mbp10": process.mbp10_cpus,
    }
    return [
        FeedPlan(name, moves(_source(config, data_dir, name)), Source.REPLAY, cpus[name])
        for name in _wanted(config.replay, data_dir)
    ]


def _wanted(replay: Replay, data_dir: Path) -> list[FeedName]:
    if replay.feeds:
        return _named(replay)
    if replay.journal_dir is None:
        return [name for name in FEED_ORDER if name in SCHEMAS]
    recorded = {name: dates_recorded(replay.journal_dir, MARKETS[name]) for name in MARKETS}
    found = recorded | {name: _dates_of_files(data_dir, SCHEMAS[name]) for name in SCHEMAS}
    wanted = [name for name in FEED_ORDER if _any_of(replay.dates, found[name])]
    if not any(name in MARKETS for name in wanted):
        raise NoDataError(_nothing_recorded(replay.journal_dir, replay.dates, recorded))
    left_out = [name for name in FEED_ORDER if name not in wanted]
    log.info(
        "replaying %s%s",
        ", ".join(wanted),
        f"; there is nothing of {', '.join(left_out)}" if left_out else "",
    )
    return wanted


def _named(replay: Replay) -> list[FeedName]:
    recorded = [name for name in replay.feeds if name in MARKETS]
    if recorded and replay.journal_dir is None:
        raise ConfigurationError(
            f"replay.feeds names {', '.join(recorded)}, which only a journal has: name its folder"
            " with --journal or replay.journal_dir"
        )
    return [name for name in FEED_ORDER if name in replay.feeds]


def _dates_of_files(data_dir: Path, schema: DbnSchema) -> list[dt.date]:
    try:
        return available_dates(data_dir, schema)
    except NoDataError:
        return []


def _any_of(wanted: Sequence[dt.date], there: Sequence[dt.date]) -> bool:
    return not set(wanted).isdisjoint(there) if wanted else bool(there)


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
        f"the journal in {journal_dir} holds nothing of {shortened(sorted(dates))}; dates there "
        f"are: {shortened(there)}"
    )


def _source(config: Config, data_dir: Path, name: FeedName) -> FeedSource:
    """Return the reader of a feed. Raises `NoDataError` when a folder, a file or a date lacks."""
    return _journal(config, name) if name in MARKETS else _files(config, data_dir, name)


def _files(config: Config, data_dir: Path, name: FeedName) -> FeedSource:
    replay, schema = config.replay, SCHEMAS[name]
    find_files(data_dir, schema, replay.dates)
    return DBNIngestor(
        data_dir=data_dir,
        schema=schema,
        dates=replay.dates,
        start=_wall_time(replay.start),
        end=_wall_time(replay.end),
        symbols=frozenset(replay.symbols),
        rename=replay.rename,
        block_bytes=config.process.block_bytes,
    )


def _journal(config: Config, name: FeedName) -> FeedSource:
    replay, market = config.replay, MARKETS[name]
    directory = replay.journal_dir or Path()
    find_segments(directory, market, replay.dates)
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
