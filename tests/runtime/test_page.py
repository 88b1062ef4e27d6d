"""What the page of a run is sent."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestor.config.schema import Metrics
from ingestor.model.feed_status import FeedStatus, What
from ingestor.model.replay_control import ReplayState
from ingestor.model.units import NS_PER_S
from ingestor.runtime.counters import Counter, Role
from ingestor.runtime.health import Health
from ingestor.runtime.latency import Hop
from ingestor.runtime.page import (
    DENSITY_BINS,
    MAX_NOTES,
    MAX_SAMPLES,
    Density,
    Page,
    frame,
)
from ingestor.runtime.progress_reporter import LiveProgress, ReplayProgress
from tests.runtime.views import NAMES, NOW_NS, ROLES, Looked, looked

WALL_NS = 1_765_940_400_000_000_000
"""At night: nobody need be received from."""


class Watched:
    """A page over a run that is made up, which time goes by for."""

    def __init__(self, run: Looked | None = None) -> None:
        self.run = run or looked()
        self.now_ns, self.wall_ns = NOW_NS, WALL_NS
        view = self.run.view
        feeds = [(name, row) for _, name, row in view.having(Role.FEED)]
        publisher = self.run.row("publisher")
        progress = LiveProgress(feeds, publisher)
        self.page = Page(view, Health(view, Metrics()), progress, self.now_ns)

    def pass_s(self, seconds: float = 0.25) -> dict[str, Any]:
        self.now_ns += int(seconds * NS_PER_S)
        self.wall_ns += int(seconds * NS_PER_S)
        for _, row in self.run.view.processes:
            row[Counter.HEARTBEAT_NS] = self.now_ns
        self.page.tick(self.now_ns, self.wall_ns)
        return self.page.state

    def notes(self) -> list[tuple[str, str]]:
        return [(note["who"], note["what"]) for note in self.page.notes]


def test_the_state_says_what_runs_and_whether_all_is_well() -> None:
    watched = Watched()
    state = watched.pass_s()
    assert (state["run"]["mode"], state["run"]["demo"], state["well"]) == ("live", False, True)
    watched.run.row("stocks").note_since(Counter.AWAY_SINCE_NS, True, watched.now_ns - 3 * NS_PER_S)
    state = watched.pass_s()
    assert not state["well"]
    assert state["findings"][0]["text"].startswith("stocks has no connection to its vendor")


def test_feeds_have_rates_fills_and_backlogs() -> None:
    watched = Watched()
    stocks = watched.run.row("stocks")
    watched.pass_s()
    stocks[Counter.RECORDS] = 1_000
    stocks[Counter.RING_USED_BYTES], stocks[Counter.RING_BYTES] = 25, 100
    stocks[Counter.HELD], stocks[Counter.DROPPED_TRADES] = 7, 2
    [feed, other] = watched.pass_s(1)["feeds"]
    assert (feed["name"], feed["rate"], other["rate"]) == ("stocks", 1_000.0, 0.0)
    assert (feed["ring"], feed["held"], feed["dropped"]) == ([25, 100], [7, 1_000], 2)


def test_a_sample_is_taken_each_second_however_often_one_looks() -> None:
    watched = Watched()
    for _ in range(40):
        watched.pass_s(0.25)
    assert watched.page.sampled == 10
    at = [sample["at"] for sample in watched.page.samples]
    assert [later - earlier for earlier, later in pairwise(at)] == [1_000] * 9
    watched.pass_s(60)
    watched.pass_s(0.25)
    assert watched.page.sampled == 11


def test_samples_and_notes_are_bounded_and_each_client_is_sent_what_is_new() -> None:
    watched = Watched()
    for at in range(MAX_SAMPLES + 5):
        watched.run.tell(FeedStatus(feed="stocks", what=What.ALARM, at_ns=at + 1, text="no"))
        watched.pass_s(1)
    page = watched.page
    whole = page.news(0, 0)
    assert (len(whole["samples"]), len(whole["notes"])) == (MAX_SAMPLES, MAX_NOTES)
    some = page.news(page.sampled - 2, page.noted - 1)
    assert (whole["whole"], some["whole"]) == (True, False)
    assert (some["samples"], some["notes"]) == (whole["samples"][-2:], whole["notes"][-1:])
    none = page.news(page.sampled, page.noted)
    assert (none["samples"], none["notes"]) == ([], [])
    assert page.news(1, 1)["samples"] == whole["samples"]


def test_latencies_are_those_of_the_last_ten_seconds() -> None:
    watched = Watched()
    recorder = watched.run.table.latencies.recorder(2, Hop.PUBLISH_TO_STORED)
    recorder.add(1_000_000, 10)
    recorder.flush()
    [hop] = watched.pass_s(1)["hops"]
    assert hop["hop"] == "publish to stored"
    assert hop["p50"] == hop["max"] == 1_000_000
    for _ in range(12):
        [hop] = watched.pass_s(1)["hops"]
    assert (hop["p50"], hop["max"]) == (None, None)
    recorder.add(50_000, 1)
    recorder.flush()
    [hop] = watched.pass_s(1)["hops"]
    assert hop["p99"] == pytest.approx(50_000, rel=1 / 16)


def test_what_is_done_to_a_replay_is_history_and_no_fault() -> None:
    watched = Watched()
    text = "paused before the first event"
    done = FeedStatus(feed="replay", what=What.CONTROL, at_ns=WALL_NS, text=text, generation=1)
    assert watched.run.table.note_status(NAMES.index("publisher"), done)
    watched.pass_s()
    note = watched.page.notes[-1]
    assert (note["who"], note["what"], note["bad"]) == ("replay", "control", False)


def test_statuses_restarts_and_troubles_become_history_once_each() -> None:
    watched = Watched()
    watched.pass_s()
    gap = FeedStatus(feed="options", what=What.GAP, at_ns=WALL_NS, text="cut")
    watched.run.tell(gap)
    watched.pass_s()
    watched.run.table.note_death(0, "killed by SIGKILL")
    restart = FeedStatus(feed="stocks", what=What.RESTART, at_ns=WALL_NS + 1, text="killed")
    watched.run.tell(restart)
    watched.pass_s()
    watched.run.row("publisher").note_since(
        Counter.AWAY_SINCE_NS, True, watched.now_ns - 3 * NS_PER_S
    )
    watched.pass_s()
    watched.pass_s()
    watched.run.row("publisher").note_since(Counter.AWAY_SINCE_NS, False, watched.now_ns)
    watched.pass_s()
    assert watched.notes() == [
        ("live", "started"),
        ("options", "gap"),
        ("stocks", "restart"),
        ("publisher", "without a connection"),
        ("publisher", "well again"),
    ]


def test_a_server_that_is_frozen_and_then_gone_is_not_well_again_in_between() -> None:
    watched = Watched()
    row = watched.run.row("publisher")
    row.note_since(Counter.STALLED_SINCE_NS, True, watched.now_ns - 3 * NS_PER_S)
    watched.pass_s()
    row.note_since(Counter.AWAY_SINCE_NS, True, watched.now_ns)
    watched.pass_s()
    for since in (Counter.AWAY_SINCE_NS, Counter.STALLED_SINCE_NS):
        row.note_since(since, False, watched.now_ns)
    watched.pass_s()
    assert watched.notes()[1:] == [
        ("publisher", "stalled"),
        ("publisher", "without a connection"),
        ("publisher", "well again"),
    ]


def test_what_is_counted_anew_has_no_rate_below_zero() -> None:
    watched = Watched()
    for records, rate in ((1_000, 0.0), (2_000, 1_000.0), (100, 0.0), (200, 100.0)):
        watched.run.row("stocks")[Counter.RECORDS] = records
        assert watched.pass_s(1)["feeds"][0]["rate"] == rate


def test_last_trades_of_contracts_are_shown_with_the_price() -> None:
    watched = Watched()
    assert watched.pass_s()["strikes"] is None
    watched.run.table.reference_price_e9 = 686_010_000_000
    trade = ("O:SPY251216C00686000", 1_230_000_000, 4, WALL_NS)
    watched.run.table.note_last_trades([trade])
    strikes = watched.pass_s()["strikes"]
    assert strikes == {
        "price": 686.01,
        "trades": [{"symbol": trade[0], "price": 1.23, "size": 4, "at": WALL_NS // 10**6}],
    }


def test_a_replay_shows_its_place_its_speeds_and_its_density() -> None:
    run = looked()
    roles = (Role.FILES, Role.FILES, *ROLES[2:])
    state = ReplayState(speed=2.0, paused=True, until_ns=10**18 + NS_PER_S)
    view = replace(run.view, roles=roles, steered=lambda: state)
    feeds = [(name, row) for _, name, row in view.having(Role.FEED)]
    publisher = run.row("publisher")
    progress = ReplayProgress(feeds, publisher, speed=1.0, steered=lambda: state)
    page = Page(view, Health(view, Metrics()), progress, NOW_NS)
    for second in range(3):
        publisher[Counter.EVENT_TIME_NS] = 10**18 + second * NS_PER_S
        publisher[Counter.PUBLISHED] = 100 * (second + 1)
        page.tick(NOW_NS + second, WALL_NS)
    replay = page.state["replay"]
    assert (replay["wanted"], replay["first"], replay["event"]) == (2.0, 10**12, 10**12 + 2_000)
    assert (replay["paused"], replay["until"]) == (True, 10**12 + 1_000)
    assert replay["density"][:4] == [100, 100, 100, 0]
    assert "read" in page.state["feeds"][0]


@given(st.lists(st.tuples(st.integers(0, 10**14), st.integers(0, 1_000)), min_size=1, max_size=50))
def test_a_density_keeps_every_event_however_long_the_day(steps: list[tuple[int, int]]) -> None:
    density, event_ns, published = Density(), 10**18, 0
    for step_ns, events in steps:
        event_ns, published = event_ns + step_ns, published + events
        density.note(10**18, event_ns, published)
    assert (sum(density.bins), len(density.bins)) == (published, DENSITY_BINS)
    assert event_ns - density.first_ns < density.bin_ns * DENSITY_BINS


def test_a_density_begins_where_the_run_did_however_late_one_looks() -> None:
    density = Density()
    density.note(10**18, 10**18 + 3 * NS_PER_S, 5)
    assert (density.first_ns, density.bins[:4]) == (10**18, [0, 0, 0, 5])


def test_a_density_takes_a_step_back_in_time() -> None:
    density = Density()
    density.note(10**18, 10**18, 5)
    density.note(10**18, 10**18 - 10 * NS_PER_S, 6)
    assert density.bins[0] == 6


def test_an_event_is_one_line_whatever_is_told() -> None:
    sent = frame({"text": "two\nlines\r\u2028"})
    assert sent.startswith(b"data: ")
    assert sent.endswith(b"\n\n")
    assert sent.count(b"\n") == 2
    assert b"\r" not in sent
    assert json.loads(sent[6:]) == {"text": "two\nlines\r\u2028"}
