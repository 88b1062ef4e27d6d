"""Records that the contract's example messages stand for, and those messages."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ingestor.model.blocks import Block, Reply, Runs, Source, whole_block
from ingestor.model.records import (
    EVENT_TYPE_BY_RTYPE,
    LEVEL,
    LEVELS,
    Records,
    RType,
)
from ingestor.model.units import UNDEF_PRICE

REPLY = Reply(b"_INBOX.abc.b1.500.fail.", b".1.$FI")

SYMBOLS = {1: "SPY", 2: "O:SPY251216C00686000", 17077: "ES.c.0"}


class Example(NamedTuple):
    subject: str
    source: Source
    record: Records
    payload: bytes


def record(rtype: RType, **fields: Any) -> Records:
    """One row of an event type; what is not given is 0."""
    dtype = EVENT_TYPE_BY_RTYPE[rtype].dtype
    row = np.zeros(1, dtype)
    for name, value in {"rtype": rtype, "length": dtype.itemsize // 4, **fields}.items():
        row[name] = value
    return row


def block_of(rows: Records, source: Source = Source.REPLAY, **symbols: str) -> Block:
    return Block(0, rows, {**SYMBOLS, **{int(k): v for k, v in symbols.items()}}, source)


def runs_with(rows: Records, source: Source = Source.REPLAY) -> Runs:
    return whole_block(block_of(rows, source))


def book(*levels: tuple[int, int, int, int]) -> np.ndarray[Any, Any]:
    """Ten levels from (bid_px_e9, ask_px_e9, bid_sz, ask_sz); the others are empty."""
    rows = np.zeros((1, LEVELS), LEVEL)
    rows["bid_px_e9"] = rows["ask_px_e9"] = UNDEF_PRICE
    for at, level in enumerate(levels):
        rows[0, at] = (*level, 1, 1)
    return rows


STOCK_TRADE = record(
    RType.STOCK_TRADE,
    instrument_id=1,
    ts_event_ns=1765895400001000000,
    ts_recv_ns=1765895400004217333,
    sequence=2,
    price_e9=686_010_000_000,
    size=100,
    exchange=4,
    aggressor=1,
    n_conditions=2,
    conditions=[14, 41, 0, 0, 0, 0, 0, 0],
)
STOCK_QUOTE = record(
    RType.STOCK_QUOTE,
    instrument_id=1,
    ts_event_ns=1765895400002000000,
    ts_recv_ns=1765895400004217333,
    sequence=3,
    bid_px_e9=686_000_000_000,
    ask_px_e9=686_010_000_000,
    bid_sz=320,
    ask_sz=200,
    bid_exch=15,
    ask_exch=12,
)
OPTION_TRADE = record(
    RType.OPTION_TRADE,
    instrument_id=2,
    ts_event_ns=1765895400003000000,
    ts_recv_ns=1765895400005810004,
    sequence=3,
    price_e9=1_230_000_000,
    opt_bid_e9=UNDEF_PRICE,
    opt_ask_e9=UNDEF_PRICE,
    size=1,
    n_conditions=1,
    conditions=[233, 0, 0, 0, 0, 0, 0, 0],
)
FUTURES_TRADE = record(
    RType.FUTURES_TRADE,
    publisher_id=1,
    instrument_id=17077,
    ts_event_ns=1765895400017150864,
    ts_recv_ns=1765895400017200908,
    sequence=1,
    price_e9=6_870_000_000_000,
    size=27,
    action=ord("T"),
    side=ord("B"),
)
MBP10 = record(
    RType.MBP10,
    publisher_id=1,
    instrument_id=17077,
    ts_event_ns=1765895400017150864,
    ts_recv_ns=1765895400017200908,
    sequence=1,
    price_e9=6_869_500_000_000,
    size=3,
    action=ord("A"),
    side=ord("B"),
    levels=book((6_869_500_000_000, 6_869_750_000_000, 85, 144)),
)

_EMPTY_LEVEL = b',{"bid_px":null,"bid_sz":0,"ask_px":null,"ask_sz":0}'

CONTRACT = (
    Example(
        "market.stocks.trades",
        Source.POLYGON_WS,
        STOCK_TRADE,
        b'{"ts_event_ns":1765895400001000000,"ts_recv_ns":1765895400004217333,'
        b'"source":"polygon_ws","symbol":"SPY","price":686.01,"size":100,"exchange":4,'
        b'"conditions":[14,41],"seq":2,"aggressor":1}',
    ),
    Example(
        "market.stocks.quotes",
        Source.POLYGON_WS,
        STOCK_QUOTE,
        b'{"ts_event_ns":1765895400002000000,"ts_recv_ns":1765895400004217333,'
        b'"source":"polygon_ws","symbol":"SPY","bid_px":686.0,"ask_px":686.01,"bid_sz":320,'
        b'"ask_sz":200,"bid_exch":15,"ask_exch":12,"seq":3}',
    ),
    Example(
        "market.options.trades",
        Source.POLYGON_WS,
        OPTION_TRADE,
        b'{"ts_event_ns":1765895400003000000,"ts_recv_ns":1765895400005810004,'
        b'"source":"polygon_ws","underlying":"SPY","option_symbol":"O:SPY251216C00686000",'
        b'"exp_date":"2025-12-16","strike":686.0,"right":"C","price":1.23,"size":1,'
        b'"opt_bid":null,"opt_ask":null,"aggressor":0,"conditions":[233],"seq":3}',
    ),
    Example(
        "market.futures.trades",
        Source.REPLAY,
        FUTURES_TRADE,
        b'{"ts_event_ns":1765895400017150864,"ts_recv_ns":1765895400017200908,'
        b'"source":"replay","symbol":"ES.c.0","price":6870.0,"size":27,"aggressor":1,'
        b'"exchange":"CME","conditions":null,"seq":1}',
    ),
    Example(
        "market.futures.mbp10",
        Source.REPLAY,
        MBP10,
        b'{"ts_event_ns":1765895400017150864,"ts_recv_ns":1765895400017200908,'
        b'"source":"replay","symbol":"ES.c.0",'
        b'"levels":[{"bid_px":6869.5,"bid_sz":85,"ask_px":6869.75,"ask_sz":144}'
        + _EMPTY_LEVEL
        * 9
        + b'],"is_snapshot":false,"seq":1,"action":"A","side":"B","action_price":6869.5,'
        b'"action_size":3}',
    ),
)
