"""Messages reported from the wire, from the vendor's documents and from other people's tests."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ingestor.feeds.polygon.decode import OptionDecoder, StockDecoder
from ingestor.feeds.polygon.frames import Skip
from ingestor.feeds.polygon.messages import MAX_MS, MIN_MS
from tests.feeds.polygon.wire import RECV_NS, events

SAMPLES = Path(__file__).parents[4] / "shared" / "facts" / "polygon-samples.jsonl"
ENCODER = msgspec.json.Encoder(decimal_format="number")
OPTION_ROOTS = ("SPY", "SPXW", "AMC", "AAPL")

pytestmark = pytest.mark.skipif(not SAMPLES.exists(), reason=f"no samples at {SAMPLES}")


def samples(kind: str) -> list[Any]:
    if not SAMPLES.exists():
        return []
    lines = SAMPLES.read_text().splitlines()
    rows = [json.loads(line, parse_float=Decimal) for line in lines]
    return [row["m"] for row in rows if row["k"] == kind]


def name(message: Any) -> str:
    return f"{message['sym']}-{message['t']}-{message.get('i')}"


def as_frame(message: Any) -> bytes:
    return ENCODER.encode([message])


def test_there_are_samples_of_every_kind() -> None:
    kinds = ("status", "stockT", "stockQ", "optT", "optQ")
    assert all(samples(kind) for kind in kinds)


def envelope(message: Any) -> dict[str, Any]:
    return {
        "ts_event_ns": message["t"] * 1_000_000,
        "ts_recv_ns": RECV_NS,
        "source": "polygon_ws",
        "seq": message.get("q"),
    }


def check(decoder: Any, message: Any, expected: dict[str, Any]) -> None:
    decoded = decoder.decode(as_frame(message), RECV_NS)
    if not MIN_MS <= message["t"] < MAX_MS:
        assert decoded.skipped == {Skip.TIME: 1}
        assert len(decoded.records) == 0
        assert len(decoded.notices) == 1
        return
    (event,) = events(decoder, decoded)
    assert msgspec.structs.asdict(event) == envelope(message) | expected
    assert (decoded.skipped, decoded.notices) == ({}, ())


@pytest.mark.parametrize("message", samples("stockT"), ids=name)
def test_a_stock_trade_gives_the_contracts_event(message: Any) -> None:
    expected = {
        "symbol": message["sym"],
        "price": float(message["p"]),
        "size": int(Decimal(message.get("ds", message["s"]))),
        "exchange": message.get("x"),
        "conditions": tuple(message.get("c", ())),
        "aggressor": 0,
    }
    check(StockDecoder(), message, expected)


@pytest.mark.parametrize("message", samples("stockQ"), ids=name)
def test_a_stock_quote_gives_the_contracts_event(message: Any) -> None:
    expected = {
        "symbol": message["sym"],
        "bid_px": float(message["bp"]),
        "ask_px": float(message["ap"]),
        "bid_sz": message.get("bs"),
        "ask_sz": message.get("as"),
        "bid_exch": message.get("bx"),
        "ask_exch": message.get("ax"),
    }
    check(StockDecoder(), message, expected)


@pytest.mark.parametrize("message", samples("optT"), ids=name)
def test_an_option_trade_gives_the_contracts_event(message: Any) -> None:
    root, tail = message["sym"][2:-15], message["sym"][-15:]
    expected = {
        "underlying": root,
        "option_symbol": message["sym"],
        "exp_date": f"20{tail[:2]}-{tail[2:4]}-{tail[4:6]}",
        "strike": int(tail[7:]) / 1000,
        "right": tail[6],
        "price": float(message["p"]),
        "size": message["s"],
        "opt_bid": None,
        "opt_ask": None,
        "aggressor": 0,
        "conditions": tuple(message.get("c", ())),
    }
    check(OptionDecoder(OPTION_ROOTS), message, expected)


@pytest.mark.parametrize("message", samples("optQ"), ids=name)
def test_an_option_quote_is_what_the_next_trade_is_judged_by(message: Any) -> None:
    decoder = OptionDecoder(OPTION_ROOTS)
    decoded = decoder.decode(as_frame(message), RECV_NS)
    if message["t"] < MIN_MS:
        assert decoded.skipped == {Skip.TIME: 1}
        return
    assert (len(decoded.records), decoded.skipped) == (0, {})
    trade = {"ev": "T", "sym": message["sym"], "p": message["ap"], "s": 1, "t": message["t"]}
    (event,) = events(decoder, decoder.decode(as_frame(trade), RECV_NS))
    quoted = (float(message["bp"]), float(message["ap"]), 1)
    assert (event.opt_bid, event.opt_ask, event.aggressor) == quoted  # type: ignore[attr-defined]


@pytest.mark.parametrize("message", samples("status"), ids=lambda message: message[0]["status"])
def test_a_status_frame_gives_its_statuses_and_no_skip(message: Any) -> None:
    decoded = StockDecoder().decode(json.dumps(message).encode(), RECV_NS)
    assert [
        {"ev": "status", "status": status.status, "message": status.message}
        for status in decoded.statuses
    ] == message
    assert (len(decoded.records), decoded.skipped, decoded.notices) == (0, {}, ())
