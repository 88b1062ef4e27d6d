"""Targets of what vendors and files send: DBN, symbology, Polygon frames, session, tickers."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Final

import zstandard

from ingestor.feeds.databento import DBNIngestor
from ingestor.feeds.databento.files import DbnFile, DbnSchema
from ingestor.feeds.databento.header import header_of
from ingestor.feeds.databento.symbology import HeaderNames, SymbologyNames
from ingestor.feeds.polygon.commands import Fail, Reconnect, Report
from ingestor.feeds.polygon.decode import OptionDecoder, StockDecoder
from ingestor.feeds.polygon.messages import Status
from ingestor.feeds.polygon.option_follower import ReferencePrice
from ingestor.feeds.polygon.session import Phase, Session, SessionLimits
from ingestor.model.blocks import Block, Source
from ingestor.model.bounds import is_symbol
from ingestor.model.symbols import parse_option_ticker
from ingestor.model.units import NS_PER_S
from tests.dbn_files import ES, dbn_path, depth, header_bytes, other_record, trades, with_ts_out
from tests.feeds.polygon.wire import (
    CONTRACT,
    RECV_NS,
    frame,
    option_quote,
    option_trade,
    quote,
    trade,
)
from tests.fuzz.mutator import EDGES, NUMBERS, VALUES
from tests.fuzz.target import Target, check_publishable

BLOCK_BYTES: Final = 4096
_LENGTH: Final = slice(4, 8)
_TRADES: Final = trades(3).tobytes()


_DATE: Final = dt.date(2024, 1, 2)
_DAY: Final = (_DATE - dt.date(1970, 1, 1)).days


def dbn_header(folder: Path) -> Target:
    """The header of a DBN file, most often with a length that fits it."""

    def finish(rng: Random, data: bytes) -> bytes:
        if rng.random() < 0.7:
            length = max(0, len(data) - _LENGTH.stop).to_bytes(4, "little")
            data = data[: _LENGTH.start] + length + data[_LENGTH.stop :]
        return data + _TRADES

    samples = [
        header_bytes(schema, version=version, mappings=mappings)
        for version in (1, 2, 3)
        for schema, mappings in (("trades", ES), (None, ES), ("trades", {}))
    ]
    path = dbn_path(folder, DbnSchema.TRADES, zstd=False)

    def run(data: bytes) -> None:
        names = HeaderNames(header_of(data, path))
        _check_names([*names, *names.of(17077, _DAY)])

    return Target(samples=samples, run=run, finish=finish)


def dbn_trades(folder: Path) -> Target:
    """Records of trades and other types behind a sound header, plain and compressed."""
    others = b"".join(other_record(rtype, 80) for rtype in (0x15, 0x16, 0x17))
    bodies = (trades(9).tobytes(), others + trades(2).tobytes(), others)
    samples = [
        header_bytes("trades", version=version) + body for version in (1, 3) for body in bodies
    ]
    samples.append(header_bytes("trades", ts_out=True) + with_ts_out(trades(4)).tobytes())
    return Target(samples=samples, run=_files(folder, DbnSchema.TRADES), finish=_compressed)


def dbn_depth(folder: Path) -> Target:
    """Records of depth behind a sound header, plain and compressed."""
    samples = [header_bytes("mbp-10") + depth(3).tobytes()]
    return Target(samples=samples, run=_files(folder, DbnSchema.MBP10), finish=_compressed)


def symbology(folder: Path) -> Target:
    """``symbology.json``, as it is read for a file whose header names nothing."""
    path = folder / "symbology.json"
    spans = [{"d0": "2024-01-01", "d1": "2024-02-01", "s": "17077"}]
    sound = {"result": {"ES.c.0": spans}, "stype_in": "continuous", "partial": [], "status": 0}
    inverse = {"result": {"17077": [{**spans[0], "s": "ESH4"}]}, "stype_in": "instrument_id"}

    def look_up(data: bytes) -> None:
        path.write_bytes(data)
        names = SymbologyNames([folder])
        _check_names([*names, *names.of(17077, _DAY)])

    samples = [json.dumps(one).encode() for one in (sound, inverse)]
    return Target(samples=samples, run=look_up, text=True)


def stock_frames(_folder: Path) -> Target:
    """Frames of /stocks; whatever is in one, the frame after it is read as ever."""
    sound = frame(quote(), trade(c=[14, 41], q=7, ds="100.5", pt=RECV_NS // 10**6))
    samples = [
        sound,
        frame({"ev": "status", "status": "success", "message": "subscribed to: T.SPY"}, trade()),
        frame(trade(sym="AAPL", i="5", z=1, trfi=2, trft=3), quote(bx=1, ax=2, q=3, i=[1])),
    ]

    def run(data: bytes) -> None:
        decoder = StockDecoder()
        reference = ReferencePrice("SPY")
        for each in (data, sound):
            decoded = decoder.decode(each, RECV_NS)
            reference.on_frame(decoded)
            table = decoder.instruments.table
            check_publishable(Block(0, decoded.records, table, Source.POLYGON_WS))
        assert len(decoded.records) == 2, "the frame after it is not read"

    return Target(samples=samples, run=run, text=True)


def option_frames(_folder: Path) -> Target:
    """Frames of /options."""
    sound = frame(option_quote(), option_trade(c=[233], q=7))
    samples = [sound, frame(option_trade(sym=CONTRACT.replace("SPY", "SPX")), option_trade(pt=1))]

    def run(data: bytes) -> None:
        decoder = OptionDecoder(("SPY",))
        for each in (data, sound):
            decoded = decoder.decode(each, RECV_NS)
            table = decoder.instruments.table
            check_publishable(Block(0, decoded.records, table, Source.POLYGON_WS))
        assert len(decoded.records) == 1, "the frame after it is not read"

    return Target(samples=samples, run=run, text=True)


def session(_folder: Path) -> Target:
    """Forty happenings in a conversation: sockets, statuses, times that step either way."""
    return Target(samples=[b""], run=_converse, finish=lambda rng, _: rng.randbytes(8))


def ticker(_folder: Path) -> Target:
    """Option tickers."""

    def run(data: bytes) -> None:
        text = data.decode("utf-8", "surrogateescape")
        assert parse_option_ticker(text).text == text

    return Target(samples=[CONTRACT.encode(), b"O:TSLA1260116P00000500"], run=run)


def _check_names(names: list[str]) -> None:
    assert all(map(is_symbol, names)), "a symbol that does not fit"


def _files(folder: Path, schema: DbnSchema) -> Callable[[bytes], None]:
    path = dbn_path(folder, schema, zstd=False)

    def run(data: bytes) -> None:
        path.write_bytes(data)
        files = [DbnFile(path, _DATE, len(data))]
        with DBNIngestor(
            data_dir=folder, schema=schema, files=files, block_bytes=BLOCK_BYTES
        ) as ingestor:
            for block in ingestor.blocks():
                check_publishable(block)

    return run


def _compressed(rng: Random, data: bytes) -> bytes:
    if rng.random() < 0.8:
        return data
    data = zstandard.compress(data)
    if rng.random() < 0.5:
        at = rng.randrange(len(data))
        data = data[:at] + rng.randbytes(rng.randrange(5)) + data[at + rng.randrange(5) :]
    return data


KEY: Final = "k3y-Never-Shown"
_NAMES: Final = ("Q.SPY", "T.O:SPY251216C00686000", "", "T.*")
_STATUSES: Final = (
    *("connected", "auth_success", "auth_failed", "auth_timeout", "max_connections", "success"),
    *("error", "", "\x1b[2K", "x" * 5000, f"key {KEY}"),
)
_WORDS: Final = (
    *("subscribed to: T.SPY", "subscribed to: ", "unsubscribed to: Q.SPY", "not authorized"),
    *("authenticated", "", f"bad key {KEY}", "line\nforged", "y" * 5000),
    *(each.decode(errors="replace") for each in (*NUMBERS[::9], *VALUES[::5])),
)


def _converse(data: bytes) -> None:
    rng = Random(data)
    wanted = ["T.SPY", "Q.SPY"]
    conversation = Session(KEY, wanted, random=rng.random, limits=SessionLimits())
    now_ns = 0
    for _ in range(40):
        now_ns += rng.choice((0, 1, NS_PER_S, 60 * NS_PER_S, -NS_PER_S, rng.choice(EDGES)))
        for output in _happening(conversation, rng, now_ns):
            if isinstance(output, Report | Fail):
                assert KEY not in output.text, f"the key is shown: {output.text!r}"
            if isinstance(output, Reconnect):
                assert output.at_ns >= now_ns, "a socket is due in the past"
            if isinstance(output, Fail):
                assert conversation.phase is Phase.ENDED, "it failed and goes on"


def _happening(conversation: Session, rng: Random, now_ns: int) -> Any:
    names, cause = [f"T.{rng.choice('ABCD')}", rng.choice(_NAMES)], rng.choice(_WORDS)
    others: list[Callable[[], Any]] = [
        lambda: conversation.on_open(now_ns),
        lambda: conversation.on_open(now_ns),
        lambda: conversation.on_close(now_ns, cause, rng.choice((None, 1000, 1008))),
        lambda: conversation.on_unreachable(now_ns, cause),
        lambda: conversation.on_tick(now_ns),
        lambda: conversation.subscriptions.subscribe(names, now_ns),
        lambda: conversation.subscriptions.unsubscribe(names, now_ns),
        lambda: conversation.stop() if rng.random() < 0.1 else (),
    ]
    if rng.random() < 0.6:
        return rng.choice(others)()
    statuses = [Status(rng.choice(_STATUSES), rng.choice(_WORDS)) for _ in range(rng.randrange(4))]
    if rng.random() < 0.5:
        statuses = [Status("connected"), Status("auth_success"), *statuses]
    return conversation.on_statuses(statuses, now_ns)
