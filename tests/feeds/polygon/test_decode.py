from __future__ import annotations

from struct import calcsize
from typing import Any

import numpy as np
import pytest

from ingestor.feeds.polygon import decode as layouts
from ingestor.feeds.polygon.decode import (
    LATE_AFTER_NS,
    MAX_CONDITION_SETS,
    OptionDecoder,
    StockDecoder,
    whole_shares,
)
from ingestor.feeds.polygon.frames import Oddity, Skip
from ingestor.feeds.polygon.instruments import Instruments
from ingestor.model.records import (
    MAX_CONDITIONS,
    OPTION_TRADE,
    STOCK_QUOTE,
    STOCK_TRADE,
    UNDEF_EXCHANGE,
    UNDEF_SEQUENCE,
    RType,
)
from ingestor.model.units import NS_PER_MS, UNDEF_PRICE
from tests.feeds.polygon.wire import (
    CONTRACT,
    MS,
    RECV_NS,
    events,
    frame,
    option_events,
    option_quote,
    option_trade,
    quote,
    status,
    stock_events,
    trade,
)

LATE_MS = LATE_AFTER_NS // NS_PER_MS


def decode_stocks(*elements: Any) -> Any:
    return StockDecoder().decode(frame(*elements), RECV_NS)


def decode_options(*elements: Any) -> Any:
    return OptionDecoder(("SPY",)).decode(frame(*elements), RECV_NS)


@pytest.mark.parametrize(
    ("packer", "dtype"),
    [
        (layouts._STOCK_TRADE, STOCK_TRADE),
        (layouts._STOCK_QUOTE, STOCK_QUOTE),
        (layouts._OPTION_TRADE, OPTION_TRADE),
    ],
)
def test_a_packed_row_is_as_long_as_its_record(packer: Any, dtype: np.dtype[Any]) -> None:
    assert calcsize(packer.format) == dtype.itemsize


def test_a_stock_trade_fills_every_field_of_its_record() -> None:
    (record,) = decode_stocks(trade(q=7, c=[14, 41], ds="100.0", pt=MS - 1)).records
    assert {name: record[name].tolist() for name in STOCK_TRADE.fields or ()} == {
        "length": 16,
        "rtype": RType.STOCK_TRADE,
        "publisher_id": 0,
        "instrument_id": 0,
        "ts_event_ns": MS * 1_000_000,
        "ts_recv_ns": RECV_NS,
        "sequence": 7,
        "price_e9": 686_010_000_000,
        "size": 100,
        "exchange": 11,
        "aggressor": 0,
        "n_conditions": 2,
        "conditions": [14, 41, 0, 0, 0, 0, 0, 0],
    }


def test_a_stock_quote_fills_every_field_of_its_record() -> None:
    (record,) = decode_stocks(quote(q=9, bx=15, ax=12)).records.view(STOCK_QUOTE)
    assert {name: record[name].tolist() for name in STOCK_QUOTE.fields or ()} == {
        "length": 16,
        "rtype": RType.STOCK_QUOTE,
        "publisher_id": 0,
        "instrument_id": 0,
        "ts_event_ns": MS * 1_000_000,
        "ts_recv_ns": RECV_NS,
        "sequence": 9,
        "bid_px_e9": 686_000_000_000,
        "ask_px_e9": 686_020_000_000,
        "bid_sz": 320,
        "ask_sz": 200,
        "bid_exch": 15,
        "ask_exch": 12,
        "reserved": 0,
    }


def test_an_option_trade_fills_every_field_of_its_record() -> None:
    (record,) = decode_options(option_quote(), option_trade(q=3, c=[233], p=1.25)).records
    assert {name: record[name].tolist() for name in OPTION_TRADE.fields or ()} == {
        "length": 20,
        "rtype": RType.OPTION_TRADE,
        "publisher_id": 0,
        "instrument_id": 0,
        "ts_event_ns": MS * 1_000_000,
        "ts_recv_ns": RECV_NS,
        "sequence": 3,
        "price_e9": 1_250_000_000,
        "opt_bid_e9": 1_200_000_000,
        "opt_ask_e9": 1_250_000_000,
        "size": 1,
        "exchange": 302,
        "aggressor": 1,
        "n_conditions": 1,
        "conditions": [233, 0, 0, 0, 0, 0, 0, 0],
    }


def test_a_mixed_frame_is_one_array_in_its_order() -> None:
    decoded = decode_stocks(quote(q=1), trade(q=2), trade(q=3), quote(q=4))
    assert decoded.records["rtype"].tolist() == [0xE1, 0xE0, 0xE0, 0xE1]
    assert decoded.records["sequence"].tolist() == [1, 2, 3, 4]


def test_equal_trades_are_all_kept() -> None:
    same = trade(i="52983527388738", q=7)
    assert len(decode_stocks(same, same).records) == 2


def test_statuses_inside_a_data_frame_are_handed_on() -> None:
    ack = {"ev": "status", "status": "success", "message": "subscribed to: T.SPY"}
    decoded = decode_stocks(quote(), ack, trade())
    assert decoded.statuses == (status("success", "subscribed to: T.SPY"),)
    assert len(decoded.records) == 2
    assert decode_options(option_trade(), ack).statuses == decoded.statuses


def test_what_the_vendor_leaves_out_is_undefined() -> None:
    records = decode_stocks(trade(x=..., q=...), quote(q=...)).records
    assert records["sequence"].tolist() == [UNDEF_SEQUENCE] * 2
    assert records[0]["exchange"] == UNDEF_EXCHANGE
    assert records[0]["n_conditions"] == 0
    both = records[1:].view(STOCK_QUOTE)[["bid_exch", "ask_exch"]][0].tolist()
    assert both == (UNDEF_EXCHANGE, UNDEF_EXCHANGE)


@pytest.mark.parametrize("missing", [..., None, 0, 0.0])
def test_an_empty_side_has_no_price_and_no_size(missing: Any) -> None:
    (bidless, askless) = stock_events(quote(bp=missing), quote(ap=missing))
    assert (bidless.bid_px, bidless.bid_sz, bidless.ask_px) == (None, 0, 686.02)
    assert (askless.ask_px, askless.ask_sz, askless.bid_px) == (None, 0, 686.0)


def test_a_quote_without_sizes_has_sizes_of_zero() -> None:
    (event,) = stock_events(quote(bs=..., as_=...))
    assert (event.bid_px, event.bid_sz, event.ask_px, event.ask_sz) == (686.0, 0, 686.02, 0)


@pytest.mark.parametrize(
    ("size", "decimal_size", "whole"),
    [
        (40, "40.0", 40),
        (129, "129.0", 129),
        (1, "0.740474", 0),
        (0, "0.740474", 0),
        (3, "2.6", 2),
        (3, "3.2", 3),
        (40, "40", 40),
        (40, "40.00", 40),
        (40, 40.5, 40),
        (40, "", 40),
        (40, "many", 40),
        (40, "-1", 40),
        (40, "NaN", 40),
        (40, "Infinity", 40),
        (40, "1e999999", 40),
        (None, "2.5", 2),
        (None, "many", None),
        (None, "5e9", None),
    ],
)
def test_whole_shares(size: int | None, decimal_size: str | float, whole: int | None) -> None:
    assert whole_shares(size, decimal_size) == whole


def test_a_trade_without_s_takes_its_size_from_ds() -> None:
    (event,) = stock_events(trade(s=..., ds="12.9"))
    assert event.size == 12


def test_a_trade_without_any_size_is_skipped() -> None:
    decoded = decode_stocks(trade(s=...), trade(s=None, ds="?"), trade())
    assert len(decoded.records) == 1
    assert decoded.skipped == {Skip.SIZE: 2}
    assert decode_options(option_trade(s=...)).skipped == {Skip.SIZE: 1}


def test_one_condition_without_its_list_is_one_condition() -> None:
    (event,) = stock_events(trade(c=0))
    assert event.conditions == (0,)


def test_conditions_beyond_the_room_are_cut_and_counted_every_time() -> None:
    decoder = StockDecoder()
    many = list(range(1, MAX_CONDITIONS + 2))
    decoded = decoder.decode(frame(trade(c=many), trade(c=many)), RECV_NS)
    assert decoded.records["conditions"].tolist() == [many[:MAX_CONDITIONS]] * 2
    assert decoded.oddities == {Oddity.CONDITIONS_CUT: 2}
    assert len(decoded.notices) == 1


def test_as_many_conditions_as_there_is_room_for_are_kept() -> None:
    full = list(range(1, MAX_CONDITIONS + 1))
    decoded = decode_stocks(trade(c=full), trade(c=[65_535]))
    assert decoded.records["n_conditions"].tolist() == [MAX_CONDITIONS, 1]
    assert decoded.records[1]["conditions"][0] == 65_535
    assert decoded.oddities == {}


def test_condition_lists_that_are_kept_are_bounded() -> None:
    decoder = StockDecoder()
    sets = [trade(c=[first, second]) for first in range(70) for second in range(70)]
    decoded = decoder.decode(frame(*sets), RECV_NS)
    assert len(decoder._packed_conditions) == MAX_CONDITION_SETS < len(sets)
    assert decoded.records["conditions"][:, :2].tolist() == [each["c"] for each in sets]


def aggressors(decoded: Any) -> list[int]:
    trades = decoded.records[decoded.records["rtype"] != RType.STOCK_QUOTE]
    values: list[int] = trades["aggressor"].tolist()
    return values


def test_the_aggressor_is_judged_by_the_newest_quote_before_the_trade() -> None:
    decoded = decode_stocks(
        trade(p=686.02),
        quote(),
        trade(p=686.02),
        trade(p=686.0),
        trade(p=686.01),
        quote(bp=686.02, ap=686.04),
        trade(p=686.02),
    )
    assert aggressors(decoded) == [0, 1, -1, 0, -1]


def test_a_quote_of_another_symbol_decides_nothing() -> None:
    assert aggressors(decode_stocks(quote(sym="QQQ"), trade(p=700.0))) == [0]


def test_a_quote_of_an_earlier_frame_decides_until_it_is_forgotten() -> None:
    decoder = StockDecoder()
    decoder.decode(frame(quote()), RECV_NS)
    assert aggressors(decoder.decode(frame(trade(p=686.02)), RECV_NS)) == [1]
    decoder.instruments.forget_quotes()
    assert aggressors(decoder.decode(frame(trade(p=686.02)), RECV_NS)) == [0]


def test_a_side_that_was_emptied_decides_nothing_any_more() -> None:
    assert aggressors(decode_stocks(quote(), quote(ap=0), trade(p=700.0))) == [0]


def test_a_late_print_is_mid_and_listed_by_its_row() -> None:
    decoded = decode_stocks(
        quote(),
        trade(p=686.02, pt=MS - LATE_MS),
        trade(p=686.02, pt=MS - LATE_MS - 1),
        trade(p=686.02, pt=MS + 5000),
    )
    assert aggressors(decoded) == [1, 0, 1]
    assert decoded.late == (2,)


def test_the_span_of_lateness_can_be_set() -> None:
    data = frame(quote(), trade(p=686.02, pt=MS - 11))
    assert aggressors(StockDecoder(10_000_000).decode(data, RECV_NS)) == [0]
    assert aggressors(StockDecoder(11_000_000).decode(data, RECV_NS)) == [1]


def test_new_symbols_are_announced_by_the_frame_that_brings_them() -> None:
    decoder = StockDecoder()
    news = [
        decoder.decode(frame(*elements), RECV_NS).new_symbols
        for elements in ([trade(), quote(sym="QQQ")], [trade()], [trade(sym="IWM")])
    ]
    assert news == [((0, "SPY"), (1, "QQQ")), (), ((2, "IWM"),)]


def test_symbols_beyond_the_limit_are_skipped_and_counted() -> None:
    decoder = StockDecoder()
    decoder.instruments = Instruments(limit=1)
    decoded = decoder.decode(frame(trade(), trade(sym="A"), quote(sym="B"), quote()), RECV_NS)
    assert len(decoded.records) == 2
    assert decoded.skipped == {Skip.INSTRUMENTS_FULL: 2}


def test_option_quotes_are_remembered_and_not_published() -> None:
    (first, second) = option_events(option_trade(), option_quote(), option_trade(p=1.2))
    assert (first.opt_bid, first.opt_ask, first.aggressor) == (None, None, 0)
    assert (second.opt_bid, second.opt_ask, second.aggressor) == (1.2, 1.25, -1)


def test_an_empty_side_of_an_option_quote_is_unknown() -> None:
    (event,) = option_events(option_quote(bp=0), option_trade(p=1.3))
    assert (event.opt_bid, event.opt_ask, event.aggressor) == (None, 1.25, 1)
    (record,) = decode_options(option_quote(ap=...), option_trade()).records
    assert (record["opt_bid_e9"], record["opt_ask_e9"]) == (1_200_000_000, UNDEF_PRICE)


def test_an_option_event_says_what_its_ticker_says() -> None:
    (event,) = option_events(option_trade())
    assert (event.underlying, event.exp_date, event.right, event.strike, event.option_symbol) == (
        "SPY",
        "2026-08-14",
        "C",
        686.0,
        CONTRACT,
    )


@pytest.mark.parametrize(
    "ticker", ["O:SPYG260814C00686000", "O:SPY1260814C00686000", "O:XSP260814C00686000"]
)
def test_contracts_of_other_roots_are_counted_and_not_published(ticker: str) -> None:
    decoder = OptionDecoder(("SPY",))
    data = frame(option_trade(sym=ticker), option_quote(sym=ticker), option_trade())
    decoded = decoder.decode(data, RECV_NS)
    assert [event.ts_event_ns for event in events(decoder, decoded)] == [MS * 1_000_000]
    assert decoded.skipped == {Skip.OTHER_ROOT: 2}
    assert dict(decoder.instruments.table) == {0: CONTRACT}


@pytest.mark.parametrize("ticker", ["SPY", "O:SPY", "O:SPY261314C00686000", "O:SPY260814X00686000"])
def test_what_is_no_option_ticker_is_skipped(ticker: str) -> None:
    decoded = decode_options(option_trade(sym=ticker), option_trade())
    assert len(decoded.records) == 1
    assert decoded.skipped == {Skip.OPTION_TICKER: 1}


def test_notices_of_bad_tickers_are_one_kind() -> None:
    decoded = decode_options(*(option_trade(sym=f"BAD{number}") for number in range(20)))
    assert decoded.skipped == {Skip.OPTION_TICKER: 20}
    assert len(decoded.notices) == 1


def test_a_frame_of_statuses_has_no_records() -> None:
    decoded = decode_stocks({"ev": "status", "status": "connected"})
    assert len(decoded.records) == 0
    assert decoded.statuses == (status("connected"),)


def test_frames_share_nothing() -> None:
    decoder = StockDecoder()
    first = decoder.decode(frame(trade(q=1), {"ev": "status", "status": "x"}), RECV_NS)
    decoder.decode(frame(trade(q=2)), RECV_NS)
    assert first.records["sequence"].tolist() == [1]
    assert first.statuses == (status("x"),)
