from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from ingestor.feeds.polygon.frames import Skip
from ingestor.feeds.polygon.journal_feed import Playback
from ingestor.journal.format import NOTE, Entry, Market, pack_note
from ingestor.model.errors import BadDataError
from ingestor.model.records import OPTION_TRADE, STOCK_TRADE
from tests.feeds.polygon.wire import (
    MS,
    RECV_NS,
    frame,
    option_quote,
    option_trade,
    quote,
    trade,
)
from tests.journal.tapes import DAY, header


def entry(*elements: Any, connection: int = 1, number: int = 0) -> Entry:
    return Entry(frame(*elements), RECV_NS, connection, number)


def playback(**head: Any) -> Playback:
    begun = Playback()
    begun.begin(header(**head))
    return begun


def aggressors(decoded: Any) -> list[int]:
    return decoded.records["aggressor"].tolist()  # type: ignore[no-any-return]


BUY = trade(p=686.02)


def test_frames_of_stocks_go_through_the_decoder_of_stocks() -> None:
    decoded = playback().decode(entry(quote(), BUY))
    assert decoded.records.dtype == STOCK_TRADE
    assert len(decoded.records) == 2


def test_frames_of_options_go_through_that_of_options_with_the_roots_of_the_run() -> None:
    run = playback(market=Market.OPTIONS, roots=("SPY",))
    decoded = run.decode(
        entry(option_quote(), option_trade(), option_trade(sym="O:QQQ260814C00500000"))
    )
    assert decoded.records.dtype == OPTION_TRADE
    assert decoded.skipped == {"other_root": 1}
    assert run.symbols == {0: option_trade()["sym"]}


def test_a_trade_is_late_as_it_was_in_the_run() -> None:
    late = trade(p=686.02, pt=MS - 50)
    assert aggressors(playback(late_after_ns=100_000_000).decode(entry(quote(), late)))[1] == 1
    assert aggressors(playback(late_after_ns=10_000_000).decode(entry(quote(), late)))[1] == 0


def test_quotes_are_held_from_frame_to_frame_and_segment_to_segment() -> None:
    run = playback()
    run.decode(entry(quote()))
    run.begin(header(part=2))
    assert aggressors(run.decode(entry(BUY))) == [1]


def test_quotes_are_forgotten_where_another_connection_begins() -> None:
    run = playback()
    run.decode(entry(quote()))
    assert aggressors(run.decode(entry(BUY, connection=2))) == [0]


def test_quotes_and_symbols_are_forgotten_where_another_run_begins() -> None:
    run = playback()
    run.decode(entry(quote(sym="QQQ"), quote()))
    run.begin(header(run_ns=5))
    assert aggressors(run.decode(entry(BUY))) == [0]
    assert run.symbols == {0: "SPY"}


def missing(run: Playback, *numbers: int) -> list[int]:
    return [run.missing(entry(number=number)) for number in numbers]


def test_frames_that_are_missing_are_told_by_their_numbers() -> None:
    run = playback()
    assert missing(run, 0, 1, 4, 5) == [0, 0, 2, 0]
    run.begin(header(part=2))
    assert missing(run, 6, 8) == [0, 1]


def test_a_run_that_lacks_its_beginning_tells_so() -> None:
    assert missing(playback(), 3) == [3]


def test_days_that_are_not_read_are_not_missing() -> None:
    run = playback(part=4)
    assert missing(run, 100, 101) == [0, 0]
    run.begin(header(part=6, date=DAY + dt.timedelta(days=2)))
    assert missing(run, 200, 202) == [0, 1]


def test_a_segment_of_a_day_that_is_gone_is_missing() -> None:
    run = playback()
    assert missing(run, 0, 1) == [0, 0]
    run.begin(header(part=3))
    assert missing(run, 10, 11) == [8, 0]


def test_a_number_that_steps_back_is_nothing_missing() -> None:
    assert missing(playback(), 0, 5, 3) == [0, 4, 0]


def note(names: list[str] | None) -> Entry:
    return Entry(pack_note(names), RECV_NS, NOTE, 0)


def test_what_was_not_asked_for_live_is_not_played_back_either() -> None:
    run = playback()
    run.note(note(None))
    assert run.decode(entry(BUY)).skipped == {Skip.BEFORE_SUBSCRIPTION: 1}
    run.note(note(["T.SPY"]))
    decoded = run.decode(entry(BUY, trade(sym="QQQ")))
    assert (len(decoded.records), decoded.skipped) == (1, {Skip.NOT_SUBSCRIBED: 1})


def test_names_without_the_beginning_of_their_connection_restrict_nothing() -> None:
    run = playback()
    run.note(note(["T.QQQ"]))
    assert len(run.decode(entry(BUY)).records) == 1


def test_a_note_that_is_none_is_an_error() -> None:
    with pytest.raises(BadDataError, match="a note that is none"):
        playback().note(Entry(b"[5]", RECV_NS, NOTE, 0))
