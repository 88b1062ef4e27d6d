"""Decoding compared with a plain second implementation on `json` and Decimal."""

from __future__ import annotations

import json
from collections import Counter
from decimal import Decimal
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ingestor.feeds.polygon.decode import LATE_AFTER_NS, StockDecoder
from ingestor.feeds.polygon.frames import Skip
from ingestor.feeds.polygon.messages import MAX_MS, MAX_PRICE, MIN_MS
from tests.feeds.polygon.wire import RECV_NS, events

SYMBOLS = ("SPY", "QQQ")
TICK = Decimal("0.01")
LIMITS = {"q": 2**63 - 1, "c": 2**16 - 1, **dict.fromkeys(("s", "bs", "as"), 2**32 - 1)}
CAUSES = {"t": Skip.TIME, "p": Skip.PRICE, "bp": Skip.PRICE, "ap": Skip.PRICE}
CAUSES |= {"sym": Skip.SYMBOL, "pt": Skip.TIME}
CAUSES |= {"s": Skip.SIZE, "ds": Skip.SIZE, "bs": Skip.SIZE, "as": Skip.SIZE}
ABSENT = object()


class RefusedError(Exception):
    def __init__(self, field: str) -> None:
        self.cause = CAUSES.get(field, Skip.FIELD)


class Oracle:
    """Takes elements as `json` reads them, with Decimals for numbers that have a point."""

    def __init__(self) -> None:
        self.books: dict[str, tuple[Decimal, Decimal]] = {}
        self.skipped: Counter[Skip] = Counter()

    def take(self, element: Any) -> dict[str, Any] | None:
        try:
            if not isinstance(element, dict) or not isinstance(element.get("ev"), str):
                self.skipped[Skip.NOT_AN_EVENT] += 1
            elif element["ev"] == "T":
                return self.trade(element)
            elif element["ev"] == "Q":
                return self.quote(element)
            else:
                self.skipped[Skip.UNKNOWN_EV] += 1
        except RefusedError as refused:
            self.skipped[refused.cause] += 1
        return None

    def trade(self, element: dict[str, Any]) -> dict[str, Any]:
        event = envelope(element)
        price = decimal(element, "p")
        if not price > 0:
            raise RefusedError("p")
        size, ds = integer(element, "s"), element.get("ds")
        if isinstance(ds, bool | list | dict):
            raise RefusedError("ds")
        if ds is not None and str(ds).replace(".", "").isdigit() and Decimal(ds) < 2**32:
            size = int(Decimal(ds))
        if size is None:
            raise RefusedError("s")
        codes = element.get("c")
        if not isinstance(codes, list):
            codes = [] if codes is None else [integer(element, "c")]
        event |= {"price": float(price), "size": size, "exchange": integer(element, "x")}
        return event | {"conditions": tuple(codes[:8]), "aggressor": self.aggressor(element, price)}

    def aggressor(self, element: dict[str, Any], price: Decimal) -> int:
        pt = integer(element, "pt")
        if pt is not None and (element["t"] - pt) * 1_000_000 > LATE_AFTER_NS:
            return 0
        bid, ask = self.books.get(element["sym"], (Decimal(0), Decimal(0)))
        buys, sells = bool(ask) and price >= ask, bool(bid) and price <= bid
        return 0 if buys == sells else 1 if buys else -1

    def quote(self, element: dict[str, Any]) -> dict[str, Any]:
        event = envelope(element)
        bid, ask = decimal(element, "bp"), decimal(element, "ap")
        sizes = [integer(element, name) or 0 for name in ("bs", "as")]
        exchanges = [integer(element, name) for name in ("bx", "ax")]
        self.books[element["sym"]] = (bid, ask)
        event |= {"bid_px": float(bid) or None, "ask_px": float(ask) or None}
        event |= {"bid_sz": sizes[0] if bid else 0, "ask_sz": sizes[1] if ask else 0}
        return event | {"bid_exch": exchanges[0], "ask_exch": exchanges[1]}


def envelope(element: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(element.get("sym"), str):
        raise RefusedError("sym")
    t = element.get("t")
    if not isinstance(t, int) or not MIN_MS <= t < MAX_MS:
        raise RefusedError("t")
    return {
        "ts_event_ns": t * 1_000_000,
        "ts_recv_ns": RECV_NS,
        "source": "polygon_ws",
        "symbol": element["sym"],
        "seq": integer(element, "q"),
    }


def integer(element: dict[str, Any], name: str) -> int | None:
    value = element.get(name)
    if value is None or name == "pt":
        sound = value is None or (type(value) is int and abs(value) < MAX_MS)
        return value if sound else refuse(name)
    limit = LIMITS.get(name, 2**15 - 1)
    return value if type(value) is int and 0 <= value <= limit else refuse(name)


def decimal(element: dict[str, Any], name: str) -> Decimal:
    value: Any = element.get(name)
    if value is None and name != "p":
        return Decimal(0)
    if type(value) not in (int, Decimal) or not 0 <= value < MAX_PRICE:
        refuse(name)
    return Decimal(value)


def refuse(name: str) -> Any:
    raise RefusedError(name)


prices = st.one_of(
    st.integers(68_590, 68_610).map(lambda ticks: float(ticks * TICK)),
    st.integers(1, 10**15).map(lambda e9: float(Decimal(e9).scaleb(-9))),
    st.integers(1, 1000),
)
times = st.integers(1_786_649_956_000, 1_786_649_959_000)
common = {"ev": st.just("T"), "sym": st.sampled_from(SYMBOLS), "t": times}
sequences = st.integers(0, 2**63 - 1)
small = st.integers(0, 600)
trades = st.fixed_dictionaries(
    {**common, "p": prices, "s": small},
    optional={
        "x": small,
        "q": sequences,
        "pt": times,
        "i": st.text("0123456789", min_size=1),
        "c": st.lists(small, max_size=10),
        "ds": st.decimals(0, 500, places=3).map(str),
        "zz": st.none(),
    },
)
quotes = st.fixed_dictionaries(
    {**common, "ev": st.just("Q")},
    optional={
        **dict.fromkeys(("bp", "ap"), st.one_of(prices, prices, st.sampled_from((0, None)))),
        **dict.fromkeys(("bs", "as", "bx", "ax"), small),
        "q": sequences,
        "i": st.lists(small, max_size=2),
    },
)
junk = st.sampled_from((True, [], {}, "abc", -1, 10**15, 1.5, -0.5, None, ABSENT))


@st.composite
def broken(draw: st.DrawFn) -> Any:
    """An element with one of its fields gone, or holding something else."""
    element = dict(draw(trades | quotes))
    field = draw(st.sampled_from(sorted(element)))
    value = draw(junk)
    del element[field]
    return element if value is ABSENT else element | {field: value}


others: st.SearchStrategy[Any] = st.sampled_from(
    (5, None, "x", [], {}, {"ev": "A"}, {"ev": 7}, {"sym": "SPY"})
)
frames = st.lists(st.one_of(trades, quotes, trades, quotes, broken(), others), max_size=8)


def test_the_oracle_itself_sees_all_three_aggressors() -> None:
    oracle = Oracle()
    book = {"ev": "Q", "sym": "SPY", "t": MIN_MS, "bp": Decimal(10), "ap": Decimal(12)}
    at = {"ev": "T", "sym": "SPY", "t": MIN_MS, "s": 1}
    oracle.take(book)
    events_ = [oracle.take(at | {"p": price}) for price in (10, 11, 12)]
    assert [event and event["aggressor"] for event in events_] == [-1, 0, 1]


@settings(max_examples=250, deadline=None)
@given(st.lists(frames, max_size=3))
def test_every_frame_decodes_as_the_oracle_says(feed: list[list[Any]]) -> None:
    decoder, oracle = StockDecoder(), Oracle()
    skipped: Counter[Skip] = Counter()
    for elements in feed:
        data = json.dumps(elements)
        decoded = decoder.decode(data.encode(), RECV_NS)
        seen = (oracle.take(element) for element in json.loads(data, parse_float=Decimal))
        expected = [event for event in seen if event is not None]
        got = events(decoder, decoded)
        assert [
            {name: getattr(event, name) for name in event.__struct_fields__} for event in got
        ] == expected
        skipped.update(decoded.skipped)
    assert skipped == oracle.skipped
