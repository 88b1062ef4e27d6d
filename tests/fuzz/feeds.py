"""Targets of what vendors and files send: DBN, symbology, Polygon frames, session, tickers."""

from __future__ import annotations

import datetime as dt
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any, Final

import zstandard

from ingestor.feeds.databento import DBNIngestor
from ingestor.feeds.databento.files import DbnFile, DbnSchema
from ingestor.feeds.databento.header import header_of
from ingestor.feeds.databento.record_filter import FileIssues, FileProgress, RecordFilter
from ingestor.feeds.databento.record_reader import DbnReader
from ingestor.feeds.databento.symbology import HeaderNames, SymbologyNames, SymbolTables
from ingestor.feeds.polygon.decode import OptionDecoder, StockDecoder
from ingestor.feeds.polygon.messages import StatusMessage
from ingestor.feeds.polygon.option_follower import ReferencePrice
from ingestor.feeds.polygon.session import Phase, Session, SessionLimits
from ingestor.feeds.polygon.subscriptions import Fail, Reconnect, Report
from ingestor.feeds.windows import EVERYTHING
from ingestor.files.streams import stream_of
from ingestor.model.blocks import Block, Source
from ingestor.model.bounds import is_symbol
from ingestor.model.records import Records
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
from tests.fuzz.target import Target, check_publishable, is_one_of

BLOCK_BYTES: Final = 4096
_SHARE: Final = 16
"""One in so many inputs goes the whole way, files included; the others are read in memory."""

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
    bodies = (trades(4).tobytes(), others + trades(2).tobytes(), others)
    return _behind_headers(folder, DbnSchema.TRADES, bodies, trades(3))


def dbn_depth(folder: Path) -> Target:
    """Records of depth behind a sound header, plain and compressed."""
    return _behind_headers(folder, DbnSchema.MBP10, [depth(2).tobytes()], depth(1))


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
        frame(
            trade(sym="AAPL", i="5", z=1, trfi=2, trft=3, c=[*range(9)]),
            quote(bx=1, ax=2, q=3, i=[1]),
        ),
    ]

    def run(data: bytes) -> None:
        decoder = StockDecoder()
        reference = ReferencePrice("SPY")
        for each in (data, sound):
            decoded = decoder.decode(each, RECV_NS)
            reference.on_frame(decoded)
            if each is data or is_one_of(_SHARE, data):
                table = decoder.instruments.table
                check_publishable(Block(0, decoded.records, table, Source.POLYGON_WS))
        assert len(decoded.records) == 2, "the frame after it is not read"

    return Target(samples=samples, run=run, text=True)


def option_frames(_folder: Path) -> Target:
    """Frames of /options."""
    sound = frame(option_quote(), option_trade(c=[233], q=7))
    samples = [
        sound,
        frame(option_trade(sym=CONTRACT.replace("SPY", "SPX")), option_trade(pt=1)),
        frame(option_trade(c=[*range(9)])),
    ]

    def run(data: bytes) -> None:
        decoder = OptionDecoder(("SPY",))
        for each in (data, sound):
            decoded = decoder.decode(each, RECV_NS)
            if each is data or is_one_of(_SHARE, data):
                table = decoder.instruments.table
                check_publishable(Block(0, decoded.records, table, Source.POLYGON_WS))
        assert len(decoded.records) == 1, "the frame after it is not read"

    return Target(samples=samples, run=run, text=True)


def session(_folder: Path) -> Target:
    """Sixteen happenings in a conversation: sockets, statuses, times that step either way."""
    size = _HAPPENINGS * _HAPPENING_BYTES
    return Target(samples=[b""], run=_converse, finish=lambda rng, _: rng.randbytes(size))


def ticker(_folder: Path) -> Target:
    """Option tickers."""

    def run(data: bytes) -> None:
        text = data.decode("utf-8", "surrogateescape")
        assert parse_option_ticker(text).text == text

    return Target(samples=[CONTRACT.encode(), b"O:TSLA1260116P00000500"], run=run)


def _check_names(names: list[str]) -> None:
    assert all(map(is_symbol, names)), "a symbol that does not fit"


def _behind_headers(
    folder: Path, schema: DbnSchema, bodies: Sequence[bytes], sent: Records
) -> Target:
    """A sample's first byte says which header it gets; `dbn_header` is where those are damaged."""
    headers = [
        header_bytes(schema),
        *(header_bytes(schema, version=version, mappings={}) for version in (1, 3)),
        header_bytes(None, mappings={}),
        header_bytes(schema, mappings={}, ts_out=True),
    ]
    *plain, with_send_times = [bytes([number]) for number in range(len(headers))]
    samples = [number + body for number in plain for body in bodies]
    samples.append(with_send_times + with_ts_out(sent).tobytes())
    path = dbn_path(folder, schema, zstd=False)

    def finish(rng: Random, data: bytes) -> bytes:
        header = headers[data[0] % len(headers)] if data else b""
        return _compressed(rng, header + data[1:])

    def run(data: bytes) -> None:
        blocks = _blocks_of_file if is_one_of(_SHARE, data) else _blocks_in_memory
        for block in blocks(path, schema, data):
            check_publishable(block)

    return Target(samples=samples, run=run, finish=finish)


def _blocks_of_file(path: Path, schema: DbnSchema, data: bytes) -> Iterator[Block]:
    path.write_bytes(data)
    files = [DbnFile(path, _DATE, len(data))]
    ingestor = DBNIngestor(
        data_dir=path.parent, schema=schema, files=files, block_bytes=BLOCK_BYTES
    )
    with ingestor:
        yield from ingestor.blocks()


def _blocks_in_memory(path: Path, schema: DbnSchema, data: bytes) -> Iterator[Block]:
    """Read as `DBNIngestor` does, but for the file and what is looked for beside it."""
    reader = DbnReader(stream_of(BytesIO(data)), path, schema, BLOCK_BYTES)
    deque(reader.open(), maxlen=0)
    issues = FileIssues(path)
    tables = SymbolTables(HeaderNames(reader.header))
    yield from RecordFilter(reader, tables, issues, FileProgress()).blocks([EVERYTHING])
    issues.log()


def _compressed(rng: Random, data: bytes) -> bytes:
    if rng.random() < 0.8:
        return data
    data = zstandard.compress(data)
    if rng.random() < 0.5:
        at = rng.randrange(len(data))
        data = data[:at] + rng.randbytes(rng.randrange(5)) + data[at + rng.randrange(5) :]
    return data


KEY: Final = "k3y-Never-Shown"
_HAPPENINGS: Final = 16
_HAPPENING_BYTES: Final = 6
_WANTED: Final = ("T.SPY", "Q.SPY")
_NAMES: Final = ("Q.SPY", "T.O:SPY251216C00686000", "", "T.*", *(f"T.{one}" for one in "ABCD"))
_STATUSES: Final = (
    *("connected", "auth_success", "auth_failed", "auth_timeout", "max_connections", "success"),
    *("error", "", "\x1b[2K", "x" * 5000, f"key {KEY}"),
)
_WORDS: Final = (
    *("subscribed to: T.SPY", "subscribed to: ", "unsubscribed to: Q.SPY", "not authorized"),
    *("authenticated", "", f"bad key {KEY}", "line\nforged", "y" * 5000),
    *(each.decode(errors="replace") for each in (*NUMBERS[::9], *VALUES[::5])),
)
_SAID: Final = [[StatusMessage(status, words) for words in _WORDS] for status in _STATUSES]
_STEPS_NS: Final = (*(0, 1, NS_PER_S, 60 * NS_PER_S, -NS_PER_S) * (len(EDGES) // 5), *EDGES)
_LET_IN: Final = (StatusMessage("connected"), StatusMessage("auth_success"))


def _converse(data: bytes) -> None:
    conversation = Session(KEY, _WANTED, random=lambda: data[0] / 256, limits=SessionLimits())
    now_ns = 0
    if data[1] % 4:  # most begin where most of a conversation is spent
        conversation.on_open(now_ns)
        conversation.on_statuses(_LET_IN, now_ns)
    for at in range(0, len(data), _HAPPENING_BYTES):
        step = data[at : at + _HAPPENING_BYTES]
        now_ns += _STEPS_NS[step[-1] % len(_STEPS_NS)]
        for output in _happening(conversation, step, now_ns):
            if isinstance(output, Report | Fail):
                assert KEY not in output.text, f"the key is shown: {output.text!r}"
            if isinstance(output, Reconnect):
                assert output.at_ns >= now_ns, "a socket is due in the past"
            if isinstance(output, Fail):
                assert conversation.phase is Phase.ENDED, "it failed and goes on"


def _happening(conversation: Session, step: bytes, now_ns: int) -> Any:
    kind, first, second, third, fourth = step[:5]
    cause, names = _WORDS[first % len(_WORDS)], [_NAMES[at % len(_NAMES)] for at in (second, third)]
    others: Sequence[Callable[[], Any]] = (
        *(lambda: conversation.on_open(now_ns),) * 2,
        lambda: conversation.on_close(now_ns, cause, (None, 1000, 1008)[fourth % 3]),
        lambda: conversation.on_unreachable(now_ns, cause),
        lambda: conversation.on_tick(now_ns),
        lambda: conversation.subscriptions.subscribe(names, now_ns),
        lambda: conversation.subscriptions.unsubscribe(names, now_ns),
        lambda: conversation.stop() if fourth < 32 else (),
    )
    if kind % 16 < len(others):
        return others[kind % 16]()
    said = [
        _SAID[(first + at) % len(_STATUSES)][at % len(_WORDS)]
        for at in (second, third, fourth)[: kind // 16 % 4]
    ]
    return conversation.on_statuses(said if kind % 3 else [*_LET_IN, *said], now_ns)
