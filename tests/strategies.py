"""Hypothesis strategies for records, blocks and runs, rich in nulls and extremes.

Integers come from three wells: what a vendor usually sends, the values at the ends of a type
(which is where the sentinels lie) and its whole range. Hypothesis draws sizes, symbols, order and
a seed per array; NumPy fills the array from the seed, since a depth record alone has 74 integers.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from ingestor.model.blocks import Block, Runs, Source
from ingestor.model.bounds import MAX_TIME_NS, is_symbol
from ingestor.model.events import MAX_PRICE
from ingestor.model.feed_status import FeedStatus, What
from ingestor.model.records import (
    EVENT_TYPE_BY_RTYPE,
    FLAG_SNAPSHOT,
    FUTURES_TRADE,
    MAX_CONDITIONS,
    MBP10,
    OPTION_TRADE,
    STOCK_QUOTE,
    STOCK_TRADE,
    UNDEF_EXCHANGE,
    EventType,
    Records,
    RType,
)
from ingestor.model.symbols import STRIKE_E9_PER_UNIT, OptionTicker
from ingestor.model.units import PRICE_SCALE, UNDEF_PRICE

_UNKNOWN_OR_NATURAL: Final = st.none() | st.integers(0, 2**63 - 1)
STATUSES: Final = st.builds(
    FeedStatus,
    feed=st.text(min_size=1),
    what=st.sampled_from(What),
    at_ns=st.integers(0, 2**63 - 1),
    text=st.text(),
    from_event_ns=_UNKNOWN_OR_NATURAL,
    to_event_ns=_UNKNOWN_OR_NATURAL,
    from_recv_ns=_UNKNOWN_OR_NATURAL,
    to_recv_ns=_UNKNOWN_OR_NATURAL,
    lost_trades=_UNKNOWN_OR_NATURAL,
    lost_quotes=_UNKNOWN_OR_NATURAL,
    generation=st.integers(0, 2**63 - 1) | st.just(msgspec.UNSET),
)
"""What a feed can tell about itself."""

DTYPES: Final = (FUTURES_TRADE, MBP10, STOCK_TRADE, STOCK_QUOTE, OPTION_TRADE)

RTYPES_OF_BLOCKS: Final = (
    (RType.FUTURES_TRADE,),
    (RType.MBP10,),
    (RType.STOCK_TRADE, RType.STOCK_QUOTE),
    (RType.OPTION_TRADE,),
)
"""What one block may mix."""

INSTRUMENT_IDS: Final = (0, 1, 17077, 2**32 - 1)
"""Few, so that rows often repeat the instrument of the row before."""

_SEEDS: Final = st.integers(0, 2**32 - 1)

_USUAL: Final[dict[str, list[int]]] = {
    "publisher_id": [0, 1, 2, 38, 57, 107, 108, 255, 256, 65_535],
    "ts_event_ns": [1_765_895_400_001_000_000, 1_765_895_400_017_150_864],
    "ts_recv_ns": [1_765_895_400_004_217_333, 1_765_895_400_017_200_908],
    "sequence": [0, 1, 99, 100, 65_535, 12_345_678],
    "action": list(b"ACMTRFN"),
    "side": list(b"ABN"),
    "flags": [0, FLAG_SNAPSHOT, 128, 128 | FLAG_SNAPSHOT],
    "exchange": [UNDEF_EXCHANGE, 4, 12],
    "bid_exch": [UNDEF_EXCHANGE, 4, 12],
    "ask_exch": [UNDEF_EXCHANGE, 4, 12],
    "aggressor": [-1, 0, 1],
    "n_conditions": list(range(MAX_CONDITIONS + 1)),
    "instrument_id": list(INSTRUMENT_IDS),
}
_USUAL_PRICES: Final = [n * 10_000_000 for n in (-3763, -1, 0, 1, 10, 99, 68601, 68610, 601200)]
_USUAL_OTHERS: Final = [0, 1, 9, 10, 100]


def symbol_texts() -> st.SearchStrategy[str]:
    """Any text of a symbol: usual ones, and ones that JSON has to escape."""
    return st.sampled_from(["SPY", "ES.c.0", "BRK.B", 'a"b\\c\n\x01']) | st.text(max_size=80)


@st.composite
def option_tickers(draw: st.DrawFn) -> str:
    """A well-formed option ticker; the root may hold digits."""
    root = draw(st.text("ABCXYZ019", min_size=1, max_size=6))
    expiry = draw(st.dates(dt.date(2000, 1, 1), dt.date(2099, 12, 31)))
    strike_e9 = draw(st.integers(0, 99_999_999)) * STRIKE_E9_PER_UNIT
    return OptionTicker(root, expiry, draw(st.sampled_from("CP")), strike_e9).text


def records(dtype: np.dtype[Any], *, max_size: int = 20) -> st.SearchStrategy[Records]:
    """Arrays of one dtype with the rtype that goes with it."""
    kind = next(kind for kind in EVENT_TYPE_BY_RTYPE.values() if kind.dtype == dtype)
    return st.builds(_filled, st.just(kind), st.integers(0, max_size), _SEEDS)


@st.composite
def blocks(draw: st.DrawFn, *, max_size: int = 20) -> Block:
    """Blocks of any feed; those of stocks mix trades and quotes. May be empty."""
    rtypes = draw(st.sampled_from(RTYPES_OF_BLOCKS))
    parts = draw(
        st.lists(
            st.sampled_from(rtypes).flatmap(
                lambda rtype: records(EVENT_TYPE_BY_RTYPE[rtype].dtype, max_size=max_size)
            ),
            min_size=1,
            max_size=3 if len(rtypes) > 1 else 1,
        )
    )
    whole = np.concatenate([part.view(parts[0].dtype) for part in parts])
    return Block(
        feed=draw(st.integers(0, 3)),
        records=whole,
        symbols=draw(_tables(options=RType.OPTION_TRADE in rtypes)),
        source=draw(st.sampled_from(Source)),
    )


@st.composite
def runs(draw: st.DrawFn, *, max_blocks: int = 3, max_size: int = 20) -> Runs:
    """Runs that interleave some blocks, each in its own order; rows may be left out."""
    chosen = draw(st.lists(blocks(max_size=max_size), min_size=1, max_size=max_blocks))
    reached = [0] * len(chosen)
    pieces: list[tuple[int, int, int]] = []
    for index in draw(st.lists(st.integers(0, len(chosen) - 1), max_size=8)):
        left = len(chosen[index].records) - reached[index]
        if left:
            start = reached[index]
            reached[index] += draw(st.integers(1, left))
            pieces.append((index, start, reached[index]))
    return runs_of(chosen, pieces)


def sound_blocks(*, max_size: int = 20) -> st.SearchStrategy[Block]:
    """Blocks of what a consumer takes: symbols, times and prices within their bounds."""
    return blocks(max_size=max_size).map(_made_sound)


def sound_runs(*, max_size: int = 20) -> st.SearchStrategy[Runs]:
    """Runs over `sound_blocks`."""

    def made_sound(chosen: Runs) -> Runs:
        return replace(chosen, blocks=[_made_sound(block) for block in chosen.blocks])

    return runs(max_size=max_size).map(made_sound)


def _made_sound(block: Block) -> Block:
    kinds = {int(rtype): EVENT_TYPE_BY_RTYPE[int(rtype)] for rtype in block.records["rtype"]}
    whole = block.records.copy()
    for rtype, kind in kinds.items():
        _tame(whole.view(kind.dtype)[whole["rtype"] == rtype], whole, kind, rtype)
    symbols = {number: text for number, text in block.symbols.items() if is_symbol(text)}
    return replace(block, records=whole, symbols=symbols)


def _tame(rows: Records, whole: Records, kind: EventType, rtype: int) -> None:
    """Bring what is out of bounds back into them, by the bits that are too many."""
    for part in (rows, rows["levels"]) if "levels" in (rows.dtype.names or ()) else (rows,):
        for name in part.dtype.names or ():
            if name in ("ts_event_ns", "ts_recv_ns"):
                part[name] &= np.uint64(MAX_TIME_NS)
            elif name.endswith("_e9"):
                # A trade has a price.
                nullable = name != "price_e9" or kind.rtype == RType.MBP10
                known = (part[name] != UNDEF_PRICE) | (not nullable)
                limit = int(MAX_PRICE * PRICE_SCALE)
                part[name][known] = np.clip(part[name][known], -limit, limit)
    whole.view(kind.dtype)[whole["rtype"] == rtype] = rows


def runs_of(chosen: list[Block], pieces: list[tuple[int, int, int]]) -> Runs:
    """Return runs from (block, start, stop) triples."""
    columns = np.array(pieces, dtype=np.int64).reshape(-1, 3).T
    times = [chosen[index].records["ts_event_ns"][start:stop] for index, start, stop in pieces]
    key_ts_ns = np.concatenate([np.array([], np.uint64), *times]).astype(np.int64)
    block, start, stop = np.ascontiguousarray(columns)
    return Runs(chosen, block, start, stop, key_ts_ns)


def _tables(*, options: bool) -> st.SearchStrategy[dict[int, str]]:
    if options:
        return st.fixed_dictionaries(dict.fromkeys(INSTRUMENT_IDS, option_tickers()))
    return st.dictionaries(st.sampled_from(INSTRUMENT_IDS), symbol_texts())


def _filled(kind: EventType, size: int, seed: int) -> Records:
    rows = np.zeros(size, kind.dtype)
    _fill(rows, np.random.default_rng(seed))
    rows["rtype"] = kind.rtype
    rows["length"] = kind.dtype.itemsize // 4
    return rows


def _fill(rows: npt.NDArray[Any], rng: np.random.Generator) -> None:
    for name in rows.dtype.names or ():
        if rows[name].dtype.names:
            _fill(rows[name], rng)
        else:
            rows[name] = _integers(name, rows[name], rng)


def _integers(name: str, like: npt.NDArray[Any], rng: np.random.Generator) -> npt.NDArray[Any]:
    limits = np.iinfo(like.dtype)
    prices = name.endswith("_e9")
    usual = _USUAL_PRICES if prices else _USUAL.get(name, _USUAL_OTHERS)
    if name == "instrument_id":
        return rng.choice(np.array(usual, like.dtype), like.shape)
    wells = [
        rng.choice(np.array(usual, like.dtype), like.shape),
        rng.choice(np.array([limits.min, limits.max], like.dtype), like.shape),
        rng.integers(limits.min, limits.max, like.shape, like.dtype, endpoint=True),
    ]
    return np.choose(rng.choice(3, like.shape, p=(0.6, 0.2, 0.2)), wells)
