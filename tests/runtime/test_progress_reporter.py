from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass, replace

import pytest

from ingestor.model.replay_control import ReplayState
from ingestor.model.units import NS_PER_MS, NS_PER_S, now_ns
from ingestor.runtime.counters import Counter, CounterTable
from ingestor.runtime.progress_reporter import (
    FeedSnapshot,
    LiveProgress,
    LiveSnapshot,
    ProgressReporter,
    Rate,
    ReplayProgress,
    ReplaySnapshot,
    age_text,
    line_of,
)


@dataclass
class Half:
    share: float | None = None

    def sentence(self) -> str:
        return "half way"

    def sentences(self) -> list[str]:
        return ["half way", "half"]

    def snapshot(self, now_ns: int) -> Half:
        return self


def test_a_rate_is_that_of_the_last_two_seconds_or_since_the_beginning() -> None:
    rate = Rate(0)
    assert rate.update(0, 5) == 0
    assert rate.update(NS_PER_S, 10) == 10
    assert rate.update(2 * NS_PER_S, 1_000) == 500
    assert rate.update(3 * NS_PER_S, 1_010) == 500
    assert rate.update(4 * NS_PER_S, 1_040) == 20


def test_a_number_that_is_counted_anew_has_no_rate_below_zero() -> None:
    rate = Rate(0)
    assert rate.update(2 * NS_PER_S, 1_000) == 500
    assert rate.update(3 * NS_PER_S, 100) == 0
    assert rate.update(4 * NS_PER_S, 150) == 50


def test_lines_are_logged_as_far_apart_as_was_asked(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    seconds = iter((0, 1, 9, 10, 15, 20))
    monkeypatch.setattr("time.monotonic_ns", lambda: next(seconds) * NS_PER_S)
    reporter = ProgressReporter(Half(), 10)
    for _ in range(5):
        reporter.tick()
    reporter.close()
    assert caplog.messages == ["half way", "half way"]


def test_where_a_terminal_watches_the_line_is_drawn_and_nothing_is_logged(
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(os, "isatty", lambda fd: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    reporter = ProgressReporter(Half(), 0.001)
    reporter.tick()
    reporter.close()
    assert "half way" in capfd.readouterr().err
    assert caplog.messages == []


def test_a_snapshot_of_a_live_run_reads_as_one_line() -> None:
    stocks = FeedSnapshot("stocks", 1_020.4, 7 * NS_PER_MS, ("12 quotes dropped", "1 gap"))
    snapshot = LiveSnapshot(1_234_567, 1_030.0, (stocks, FeedSnapshot("options", 0.0, None)))
    assert snapshot.sentence() == (
        "1,234,567 events, 1,030/s; stocks 1,020/s, 7 ms old, 12 quotes dropped, 1 gap;"
        " options 0/s, no event yet"
    )


@pytest.mark.parametrize(
    ("age_ns", "text"),
    [
        (1_999 * NS_PER_MS, "1999 ms"),
        (2 * NS_PER_S, "2 s"),
        (120 * NS_PER_S, "2 min"),
        (7_200 * NS_PER_S, "2 h"),
    ],
)
def test_an_age_is_told_in_the_unit_that_suits_it(age_ns: int, text: str) -> None:
    assert age_text(age_ns) == text


@pytest.mark.parametrize(
    ("age_ns", "told"),
    [
        (3 * NS_PER_MS, "3 ms old"),
        (-3 * NS_PER_MS, "0 ms old"),
        (-90 * NS_PER_S, "the vendor's clock is ahead of ours by 90 s"),
        (-7_200 * NS_PER_S, "the vendor's clock is ahead of ours by 2 h"),
    ],
)
def test_an_event_from_the_future_is_a_clock_that_is_ahead(age_ns: int, told: str) -> None:
    assert FeedSnapshot("stocks", 0.0, age_ns).phrase() == f"stocks 0/s, {told}"


def test_rates_ages_and_losses_come_from_the_counters() -> None:
    table = CounterTable(3)
    stocks, options, publisher = (table.row(index) for index in range(3))
    progress = LiveProgress([("stocks", stocks), ("options", options)], publisher)
    started_ns = time.monotonic_ns()
    stocks[Counter.RECORDS], publisher[Counter.PUBLISHED] = 4_000, 3_800
    stocks[Counter.EVENT_TIME_NS] = now_ns() - 5 * NS_PER_S
    stocks[Counter.DROPPED_TRADES] = 3
    snapshot = progress.snapshot(started_ns + 4 * NS_PER_S)
    assert (snapshot.published, round(snapshot.rate)) == (3_800, 950)
    assert snapshot.share is None
    first, second = snapshot.feeds
    assert (first.name, round(first.rate), first.losses) == ("stocks", 1_000, ("3 trades dropped",))
    assert first.age_ns is not None
    assert first.age_ns // NS_PER_S == 5
    assert second == FeedSnapshot("options", 0.0, None)


def test_a_snapshot_reads_as_one_line() -> None:
    snapshot = ReplaySnapshot(1_234_567, 98_765.4, 1_703_548_800 * NS_PER_S, 120.0, 0.5, 3_725)
    assert snapshot.sentence() == (
        "1,234,567 events, 98,765/s, at 2023-12-26T00:00:00Z, x120, 50% done, 1:02:05 left"
    )


REPLAY = ReplaySnapshot(
    1_234_567, 98_765.4, 1_703_548_800 * NS_PER_S, 120.0, 0.5, 3_725, told=240.0
)


@pytest.mark.parametrize(
    ("room", "line"),
    [
        (
            161,
            "━" * 20 + "─" * 20 + " 1,234,567 events, 98,765/s,"
            " at 2023-12-26T00:00:00Z (2023-12-25 19:00:00 New York),"
            " x120 of x240, 50% done, 1:02:05 left",
        ),
        (
            119,
            "━" * 14 + "─" * 15 + " 1,234,567 events, 98,765/s, at 2023-12-26T00:00:00Z,"
            " x120 of x240, 50% done, 1:02:05 left",
        ),
        (78, "1,234,567 events, 98,765/s, at 00:00:00Z, x120 of x240, 50% done, 1:02:05 left"),
        (77, "━" * 15 + "─" * 15 + " 98,765/s, x120 of x240, 50% done, 1:02:05 left"),
        (46, "98,765/s, x120 of x240, 50% done, 1:02:05 left"),
        (39, "98,765/s, x120, 50% done, 1:02:05 left"),
        (22, "50% done, 1:02:05 left"),
        (21, "━━━━━━────── 50% done"),
        (5, "50% \N{HORIZONTAL ELLIPSIS}"),
    ],
)
def test_a_narrow_terminal_is_told_less_and_never_half_a_number(room: int, line: str) -> None:
    assert line_of(REPLAY, room) == line
    assert len(line) <= room


def test_a_narrow_terminal_is_told_what_a_pause_or_a_wait_is_for() -> None:
    paused = replace(REPLAY, paused=True)
    assert line_of(paused, 49) == "paused, 98,765/s, x120, 50% done, 1:02:05 left"
    assert line_of(paused, 30) == "paused, 50% done, 1:02:05 left"
    waiting = replace(REPLAY, waits="next event in 12 h: 2025-12-17T00:00Z; --max-gap shortens")
    assert line_of(waiting, 39).endswith("─ 50% done, next event in 12 h")
    assert line_of(waiting, 70) == f"50% done, {waiting.waits}"


def test_a_feed_whose_journal_is_read_back_says_how_far_behind_it_is() -> None:
    table = CounterTable(2)
    stocks, publisher = table.row(0), table.row(1)
    stocks[Counter.SPOOL_LAG_NS], stocks[Counter.SPOOLED] = 90 * NS_PER_S, 12_345
    told = LiveProgress([("stocks", stocks)], publisher).snapshot(time.monotonic_ns())
    assert told.feeds[0].losses == ("90 s behind in its journal, 12,345 events to read",)


def test_a_narrow_terminal_is_told_of_losses_before_rates_and_ages() -> None:
    stocks = FeedSnapshot("stocks", 1_020.4, 7 * NS_PER_MS, ("12 quotes dropped",))
    live = LiveSnapshot(1_234, 1_030.0, (stocks, FeedSnapshot("options", 0.0, 0)))
    assert line_of(live, 80) == (
        "1,234 events, 1,030/s; stocks 1,020/s, 12 quotes dropped; options 0/s"
    )
    assert line_of(live, 60) == "1,234 events, 1,030/s; stocks 12 quotes dropped"
    assert line_of(live, 40) == "1,234 events, 1,030/s"


def test_before_the_first_event_no_time_is_told() -> None:
    assert ReplaySnapshot(0, 0.0, 0, 0.0, 0.0, None).sentence() == "0 events, 0/s, 0% done"


def test_rate_speed_share_and_time_left_come_from_the_counters() -> None:
    table = CounterTable(2)
    feed, publisher = table.row(0), table.row(1)
    progress = ReplayProgress([("trades", feed)], publisher)
    started_ns = time.monotonic_ns()
    publisher[Counter.EVENT_TIME_NS] = 1_000 * NS_PER_S
    progress.snapshot(started_ns)
    feed[Counter.BYTES_TOTAL], feed[Counter.BYTES_READ] = 400, 200
    feed[Counter.RECORDS] = 8_000
    publisher[Counter.PUBLISHED] = 4_000
    publisher[Counter.EVENT_TIME_NS] = 1_040 * NS_PER_S
    snapshot = progress.snapshot(started_ns + 4 * NS_PER_S)
    assert round(snapshot.rate) == 1_000
    assert round(snapshot.speed) == 10
    assert snapshot.share == 0.25
    assert snapshot.eta_s is not None
    assert round(snapshot.eta_s) == 12


def test_time_that_a_seek_passes_over_is_no_speed() -> None:
    table, state = CounterTable(2), ReplayState(speed=1.0)
    publisher = table.row(1)
    progress = ReplayProgress([("trades", table.row(0))], publisher, 1.0, steered=lambda: state)
    speeds = []
    for second, event_s, generation, seeking_ns in (
        (0, 100, 0, None),
        (3, 103, 0, None),
        (4, 104, 1, 900 * NS_PER_S),
        (5, 900, 1, 900 * NS_PER_S),
        (6, 901, 1, None),
        (7, 902, 1, None),
        (8, 50, 2, None),
        (9, 51, 2, None),
    ):
        state = ReplayState(speed=1.0, generation=generation, seeking_ns=seeking_ns)
        publisher[Counter.EVENT_TIME_NS] = event_s * NS_PER_S
        speeds.append(progress.snapshot(second * NS_PER_S).speed)
    assert speeds[1:] == [1] * 7


HOUR_NS = 3_600 * NS_PER_S
DAY_NS = 1_765_843_200 * NS_PER_S
"""2025-12-16, midnight UTC."""


class Paced:
    """A paced replay of one file that is read ahead to its middle when an hour of it is out."""

    def __init__(self, speed: float, *, shortens: bool = False) -> None:
        table = CounterTable(2)
        self.feed, self.publisher = table.row(0), table.row(1)
        self.progress = ReplayProgress(
            [("trades", self.feed)], self.publisher, speed, shortens=shortens
        )
        self.now_ns = time.monotonic_ns()
        self.publisher[Counter.EVENT_TIME_NS] = DAY_NS
        self.progress.snapshot(self.now_ns)
        self.feed[Counter.BYTES_TOTAL], self.feed[Counter.BYTES_READ] = 400, 200
        self.feed[Counter.EVENT_TIME_NS] = DAY_NS + 2 * HOUR_NS
        self.publisher[Counter.EVENT_TIME_NS] = DAY_NS + HOUR_NS

    def snapshot(self) -> ReplaySnapshot:
        return self.progress.snapshot(self.now_ns)


def test_a_paced_replay_is_as_far_as_its_schedule_and_not_as_what_is_read_ahead() -> None:
    paced = Paced(speed=2)
    assert (paced.snapshot().share, paced.snapshot().eta_s) == (0.25, 3 * 3_600 / 2)
    paced.feed[Counter.BYTES_READ] = 400
    assert (paced.snapshot().share, paced.snapshot().eta_s) == (0.5, 3_600 / 2)
    paced.publisher[Counter.EVENT_TIME_NS] = DAY_NS + 2 * HOUR_NS
    assert (paced.snapshot().share, paced.snapshot().eta_s) == (1.0, 0)


def test_a_wait_in_a_hole_is_told_with_its_end_and_is_part_of_the_schedule() -> None:
    paced = Paced(speed=1)
    paced.feed[Counter.BYTES_READ] = 400
    paced.feed[Counter.EVENT_TIME_NS] = DAY_NS + 24 * HOUR_NS
    paced.publisher[Counter.WAITS_FOR_NS] = DAY_NS + 24 * HOUR_NS
    paced.publisher[Counter.WAITS_UNTIL_NS] = paced.now_ns + 12 * HOUR_NS
    snapshot = paced.snapshot()
    assert (snapshot.share, snapshot.eta_s) == (0.5, 12 * 3_600)
    told = "next event in 12 h: 2025-12-17T00:00Z; --max-gap shortens"
    assert snapshot.sentence().endswith(told)
    paced.publisher[Counter.WAITS_UNTIL_NS] = paced.now_ns + NS_PER_S
    assert paced.snapshot().waits is None


def test_where_holes_are_shortened_already_nobody_is_told_how() -> None:
    paced = Paced(speed=1, shortens=True)
    paced.publisher[Counter.WAITS_FOR_NS] = DAY_NS + 2 * HOUR_NS
    paced.publisher[Counter.WAITS_UNTIL_NS] = paced.now_ns + 60 * NS_PER_S
    assert paced.snapshot().waits == "next event in 60 s: 2025-12-16T02:00Z"


def test_who_begins_to_look_late_is_told_where_a_replay_began() -> None:
    table = CounterTable(2)
    feed, publisher = table.row(0), table.row(1)
    publisher[Counter.FIRST_EVENT_NS] = 10**18
    publisher[Counter.EVENT_TIME_NS] = 10**18 + 25 * NS_PER_S
    feed[Counter.EVENT_TIME_NS], feed[Counter.ENDED] = 10**18 + 100 * NS_PER_S, 1
    told = ReplayProgress([("trades", feed)], publisher, 5.0).snapshot(time.monotonic_ns())
    assert (told.share, told.eta_s) == (0.25, 15.0)
    assert told.span == (10**18, 10**18 + 100 * NS_PER_S, False)
