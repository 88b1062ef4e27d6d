"""Whether all is well with a run that is made up, at times that are given."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field, replace

import pytest

from ingestor.config.schema import Metrics
from ingestor.model.replay_control import ReplayState
from ingestor.model.units import NS_PER_S, new_york_ns
from ingestor.runtime.counters import Counter, Role
from ingestor.runtime.health import Finding, Health, told
from tests.runtime.views import NAMES, NOW_NS, ROLES, Looked, looked

DAY = dt.date(2025, 12, 16)
IN_SESSION_NS = new_york_ns(DAY, dt.time(11))
AT_NIGHT_NS = new_york_ns(DAY, dt.time(23))
HALF_DAY_NS = new_york_ns(dt.date(2025, 12, 24), dt.time(13, 30))
LIMITS = Metrics()
RIGHT_WITHIN_S = 3
"""The page and /healthz are right within so many seconds."""


@dataclass
class Judged:
    """A run in which all is well, in an open market."""

    run: Looked = field(default_factory=looked)
    wall_ns: int = IN_SESSION_NS

    def __post_init__(self) -> None:
        for name in ("stocks", "options"):
            self.run.row(name)[Counter.RECEIVED_NS] = self.wall_ns

    def findings(self) -> list[Finding]:
        return Health(self.run.view, LIMITS).findings(NOW_NS, self.wall_ns)

    def text(self) -> str:
        return told(self.findings())

    def ago_ns(self, seconds: float = RIGHT_WITHIN_S) -> int:
        return NOW_NS - int(seconds * NS_PER_S)


def test_all_is_well() -> None:
    judged = Judged()
    assert (judged.findings(), judged.text()) == ([], "ok\n")


def test_a_vendor_that_was_never_there() -> None:
    judged = Judged()
    stocks = judged.run.row("stocks")
    stocks[Counter.RECEIVED_NS] = 0
    stocks.note_since(Counter.AWAY_SINCE_NS, True, judged.ago_ns())
    judged.run.table.note_trouble(0, "Connection refused")
    assert judged.text().splitlines() == [
        "without a connection: stocks for 3.0 s",
        "stocks has no connection to its vendor for 3.0 s, and never had: Connection refused",
    ]


def test_a_vendor_that_is_gone_and_one_that_is_connected_to_again_at_once() -> None:
    judged = Judged()
    judged.run.row("options").note_since(Counter.AWAY_SINCE_NS, True, judged.ago_ns())
    assert "options has no connection to its vendor for 3.0 s" in judged.text()
    judged.run.row("options").note_since(Counter.AWAY_SINCE_NS, False, NOW_NS)
    judged.run.row("options").note_since(Counter.AWAY_SINCE_NS, True, judged.ago_ns(1))
    [finding] = judged.findings()
    assert (finding.bad, judged.text()) == (False, f"ok\n{finding.text}\n")


@pytest.mark.parametrize("name", ["stocks", "options"])
def test_a_vendor_that_is_silent_in_session(name: str) -> None:
    judged = Judged()
    judged.run.row(name)[Counter.RECEIVED_NS] = judged.wall_ns - RIGHT_WITHIN_S * NS_PER_S
    assert judged.text() == (
        f"quiet: {name} for 3.0 s\n"
        f"{name} has received nothing for 3.0 s though its market is open\n"
    )


@pytest.mark.parametrize("wall_ns", [AT_NIGHT_NS, HALF_DAY_NS])
def test_a_vendor_that_is_silent_while_its_market_is_closed(wall_ns: int) -> None:
    judged = Judged(wall_ns=wall_ns)
    for name in ("stocks", "options"):
        judged.run.row(name)[Counter.RECEIVED_NS] = wall_ns - 7_200 * NS_PER_S
    assert judged.text().splitlines() == [
        "ok",
        "stocks: the market is closed; nothing for 2 h",
        "options: the market is closed; nothing for 2 h",
    ]


def test_silence_counts_from_the_opening_bell() -> None:
    bell_ns = new_york_ns(DAY, dt.time(9, 30))
    judged = Judged(wall_ns=bell_ns + NS_PER_S)
    judged.run.row("stocks")[Counter.RECEIVED_NS] = bell_ns - 600 * NS_PER_S
    assert judged.text() == "ok\n"
    judged.wall_ns = bell_ns + RIGHT_WITHIN_S * NS_PER_S
    judged.run.row("options")[Counter.RECEIVED_NS] = judged.wall_ns
    assert judged.text().startswith("quiet: stocks for 3.0 s\n")


def test_a_server_that_is_gone() -> None:
    judged = Judged()
    judged.run.row("publisher").note_since(Counter.AWAY_SINCE_NS, True, judged.ago_ns())
    assert judged.text().splitlines() == [
        "without a connection: publisher for 3.0 s",
        "there is no connection to the NATS server at nats://127.0.0.1:4222 for 3.0 s",
    ]


@pytest.mark.parametrize(
    ("trouble", "why"),
    [
        (None, "the server does not answer"),
        ("insufficient resources", "insufficient resources"),
    ],
)
def test_a_server_that_is_frozen_and_one_whose_disk_is_full(trouble: str | None, why: str) -> None:
    judged = Judged()
    publisher = judged.run.row("publisher")
    publisher.note_since(Counter.STALLED_SINCE_NS, True, judged.ago_ns())
    publisher[Counter.UNACKED] = 1_234
    judged.run.table.note_trouble(NAMES.index("publisher"), trouble)
    assert judged.text().splitlines() == [
        "stalled: publisher for 3.0 s",
        f"nothing is stored for 3.0 s: {why}; 1,234 events are under way",
    ]


def test_a_server_that_is_frozen_until_its_connection_is_lost_is_unwell_all_the_time() -> None:
    judged = Judged()
    publisher = judged.run.row("publisher")
    publisher.note_since(Counter.STALLED_SINCE_NS, True, judged.ago_ns(4))
    publisher.note_since(Counter.AWAY_SINCE_NS, True, judged.ago_ns(0.5))
    assert judged.text().startswith("without a connection: publisher for 0.5 s\n")


def test_a_feed_that_receives_more_than_is_stored() -> None:
    judged = Judged()
    stocks = judged.run.row("stocks")
    stocks[Counter.HELD] = 500
    assert judged.text() == "ok\n"
    stocks[Counter.HELD] = 501
    assert judged.text().splitlines() == [
        "behind: stocks for 0.0 s",
        "stocks falls behind: 501 events wait for room in its ring, and wait in the journal when"
        " there are too many",
    ]


def test_a_feed_whose_journal_is_read_back() -> None:
    judged = Judged()
    judged.run.row("stocks")[Counter.SPOOL_LAG_NS] = 7 * NS_PER_S
    assert judged.text() == "ok\nstocks reads its journal back, and is 7 s behind\n"


def test_a_journal_whose_disk_is_full() -> None:
    judged = Judged()
    judged.run.table.note_trouble(0, "No space left on device")
    assert judged.text().splitlines() == [
        "not recorded: stocks for 0.0 s",
        "the journal of stocks is not written: No space left on device",
    ]


def test_a_feed_that_is_being_started_again_until_it_gives_a_sign_of_life() -> None:
    judged = Judged()
    stocks = judged.run.row("stocks")
    judged.run.table.note_death(0, "process stocks was killed by SIGKILL without a report")
    stocks[Counter.HEARTBEAT_NS] = stocks[Counter.STARTED_NS] = judged.ago_ns(0.5)
    assert judged.text().splitlines() == [
        "restarting: stocks for 0.5 s",
        "stocks is being started again: process stocks was killed by SIGKILL without a report",
    ]
    stocks[Counter.HEARTBEAT_NS] = NOW_NS
    assert judged.text() == "ok\n"


def test_a_process_that_is_silent_hides_what_it_said_before() -> None:
    judged = Judged()
    publisher = judged.run.row("publisher")
    publisher[Counter.HEARTBEAT_NS] = judged.ago_ns()
    publisher.note_since(Counter.AWAY_SINCE_NS, True, judged.ago_ns(60))
    assert judged.text().splitlines() == [
        "silent: publisher for 3.0 s",
        "process publisher has given no sign of life for 3.0 s",
    ]


def test_who_has_ended_is_not_unwell() -> None:
    judged = Judged()
    for name in NAMES:
        row = judged.run.row(name)
        row[Counter.HEARTBEAT_NS] = judged.ago_ns(100)
        row[Counter.AWAY_SINCE_NS] = judged.ago_ns(100)
        row[Counter.ENDED] = 1
    assert judged.text() == "ok\n"


def test_a_replay_in_a_hole_is_well_and_says_so() -> None:
    run = looked()
    view = replace(run.view, roles=(Role.FILES, Role.FILES, *ROLES[2:]))
    publisher = run.row("publisher")
    publisher[Counter.WAITS_FOR_NS] = IN_SESSION_NS
    publisher[Counter.WAITS_UNTIL_NS] = NOW_NS + 90 * NS_PER_S
    assert told(Health(view, LIMITS).findings(NOW_NS, AT_NIGHT_NS)).splitlines() == [
        "ok",
        "a hole in the data: the next event, of 2025-12-16T16:00:00Z, is due in 90 s",
    ]


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (ReplayState(paused=True), "ok\nthe replay is paused before its first event\n"),
        (
            ReplayState(paused=True, position_ns=IN_SESSION_NS + 5),
            "ok\nthe replay is paused at 2025-12-16T16:00:00Z\n",
        ),
        (ReplayState(paused=True, stepping=True), "ok\n"),
        (ReplayState(position_ns=IN_SESSION_NS), "ok\n"),
    ],
)
def test_a_replay_that_is_paused_is_well_and_says_so(state: ReplayState, text: str) -> None:
    run = looked()
    files = (Role.FILES, Role.FILES, *ROLES[2:])
    view = replace(run.view, roles=files, steered=lambda: state)
    assert told(Health(view, LIMITS).findings(NOW_NS, AT_NIGHT_NS)) == text
    run.row("publisher")[Counter.ENDED] = 1
    assert told(Health(view, LIMITS).findings(NOW_NS, AT_NIGHT_NS)) == "ok\n"


def test_what_is_bad_comes_first_and_is_told_by_kind() -> None:
    judged = Judged()
    judged.run.row("stocks").note_since(Counter.AWAY_SINCE_NS, True, judged.ago_ns(1))
    judged.run.row("options").note_since(Counter.AWAY_SINCE_NS, True, judged.ago_ns(5))
    judged.run.row("publisher").note_since(Counter.AWAY_SINCE_NS, True, judged.ago_ns(4))
    assert [finding.bad for finding in judged.findings()] == [True, True, False]
    assert judged.text().startswith(
        "without a connection: options for 5.0 s, publisher for 4.0 s\n"
    )
