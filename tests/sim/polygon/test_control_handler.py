"""What the control channel makes happen to a client, over the control channel."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from ingestor.model.errors import ChildFailedError
from ingestor.sim.polygon.control_handler import ELEMENTS, FRAMES
from ingestor.sim.polygon.simulator_process import SimulatorProcess
from tests.sim.polygon.conftest import Start
from tests.sim.polygon.helpers import WAIT_S, client, subscriber
from tests.sim.polygon.test_client_connection import QUIET, closed


def connections(simulator: SimulatorProcess, market: str = "stocks") -> list[dict[str, Any]]:
    return list(simulator.control("stats")[market]["connections"])


def test_drop_cuts_without_a_close_frame(start: Start) -> None:
    simulator = start()
    with subscriber(simulator.stocks_url, "T.SPY") as joined:
        assert simulator.control("drop")["connections"] == 1
        assert closed(joined).rcvd is None


def test_drop_means_the_market_that_is_named(start: Start) -> None:
    simulator = start()
    with (
        subscriber(simulator.stocks_url, "T.SPY") as stocks,
        subscriber(simulator.options_url, "T.*") as options,
    ):
        simulator.control("drop", market="options")
        closed(options)
        stocks.take(50)


def test_after_a_drop_the_client_may_come_back_to_a_market_that_went_on(start: Start) -> None:
    simulator = start("--quote-share", "0")
    with subscriber(simulator.stocks_url, "T.SPY") as joined:
        before = joined.take(1)[0]
        simulator.control("drop")
    with subscriber(simulator.stocks_url, "T.SPY") as joined:
        after = joined.take(1)[0]
    assert after["q"] > before["q"]
    assert after["t"] > before["t"]


def test_close_sends_the_code_and_the_reason(start: Start) -> None:
    simulator = start()
    with subscriber(simulator.stocks_url, "T.SPY") as joined:
        simulator.control("close", code=1012, reason="restart")
        ended = closed(joined)
        assert ended.rcvd is not None
        assert (ended.rcvd.code, ended.rcvd.reason) == (1012, "restart")


def test_half_open_sends_nothing_and_answers_no_ping(start: Start) -> None:
    simulator = start()
    with subscriber(simulator.stocks_url, "T.SPY") as joined:
        simulator.control("half_open")
        pong = joined.socket.ping()
        assert not joined.goes_on(silence_s=0.3)
        assert not pong.is_set()
        assert len(connections(simulator)) == 1


def test_a_half_open_connection_that_the_client_leaves_is_forgotten(start: Start) -> None:
    simulator = start()
    with subscriber(simulator.stocks_url, "T.SPY"):
        simulator.control("half_open")
    simulator.wait_until(lambda stats: not stats["stocks"]["connections"])


def test_slow_lets_bytes_trickle(start: Start) -> None:
    simulator = start(*QUIET)
    with subscriber(simulator.stocks_url, "T.SPY") as joined:
        simulator.control("slow", bytes_per_s=20_000)
        started = time.monotonic()
        simulator.control("send", text=json.dumps([{"ev": "status", "message": "x" * 10_000}]))
        joined.frame()
        assert time.monotonic() - started > 0.3


def test_slow_can_be_lifted(start: Start) -> None:
    simulator = start(*QUIET)
    with subscriber(simulator.stocks_url, "T.SPY") as joined:
        simulator.control("slow", bytes_per_s=1)
        simulator.control("send", frame=[{"ev": "x"}])
        simulator.control("slow", bytes_per_s=0)
        assert joined.frame() == [{"ev": "x"}]


def test_a_slow_client_far_behind_is_cut(start: Start) -> None:
    simulator = start("--rate", "10000", "--buffer-bytes", "100000")
    with subscriber(simulator.stocks_url, "T.SPY") as joined:
        simulator.control("slow", bytes_per_s=1_000)
        assert closed(joined).rcvd is None


@pytest.mark.parametrize(
    ("how", "error"), [("port", ConnectionRefusedError), ("http", InvalidStatus)]
)
def test_a_refusal_lasts_for_a_while_and_ends(
    start: Start, how: str, error: type[Exception]
) -> None:
    simulator = start()
    simulator.control("refuse", for_s=0.5, how=how)
    with pytest.raises(error), client(simulator.stocks_url):
        pass
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        try:
            with client(simulator.stocks_url) as joined:
                joined.log_in()
                return
        except error:
            time.sleep(0.02)
    pytest.fail("it never listened again")


def test_refuse_by_http_answers_503(start: Start) -> None:
    simulator = start()
    simulator.control("refuse", for_s=60, how="http")
    with pytest.raises(InvalidStatus) as refused, client(simulator.stocks_url):
        pass
    assert refused.value.response.status_code == 503


def test_a_refusal_leaves_connections_alone_and_is_not_doubled(start: Start) -> None:
    simulator = start()
    with subscriber(simulator.stocks_url, "T.SPY") as joined:
        simulator.control("refuse", for_s=60)
        joined.take(50)
        with pytest.raises(ChildFailedError, match="already"):
            simulator.control("refuse", for_s=60)


def test_evict_says_max_connections_and_closes_with_1008(start: Start) -> None:
    simulator = start()
    with subscriber(simulator.stocks_url, "T.SPY") as joined:
        assert simulator.control("evict")["connections"] == 1
        ended = closed(joined)
        assert ended.rcvd is not None
        assert ended.rcvd.code == 1008
        assert joined.frames[-1][0]["status"] == "max_connections"


def test_a_clock_jump_reaches_what_the_options_have_written_ahead(start: Start) -> None:
    hour_ms = 3_600_000
    simulator = start("--options-rate", "100")
    with subscriber(simulator.options_url, "T.*") as joined:
        joined.take(5)
        jumped_ms = simulator.control("clock_jump", ms=hour_ms)["wall_ms"]
        times_ms = [event["t"] for event in joined.take(40)]
    old_ms = [t_ms for t_ms in times_ms if t_ms < jumped_ms - hour_ms // 2]
    assert len(old_ms) < len(times_ms)
    assert max(old_ms, default=0) <= jumped_ms - hour_ms


def test_duplicate_sends_the_next_events_twice(start: Start) -> None:
    simulator = start("--rate", "0", "--quote-share", "0")
    with subscriber(simulator.stocks_url, "T.SPY") as joined:
        simulator.control("duplicate", n=3)
        simulator.control("rate", events_per_s=1_000)
        ids = [event["i"] for event in joined.take(9)]
    assert ids == ["1", "1", "2", "2", "3", "3", "4", "5", "6"]


@pytest.fixture(scope="module")
def lively() -> Iterator[SimulatorProcess]:
    with SimulatorProcess("--rate", "2000") as simulator:
        yield simulator


@pytest.fixture(scope="module")
def quiet() -> Iterator[SimulatorProcess]:
    with SimulatorProcess(*QUIET) as simulator:
        yield simulator


@pytest.mark.parametrize("kind", ELEMENTS)
def test_a_malformed_element_rides_among_good_ones(lively: SimulatorProcess, kind: str) -> None:
    with subscriber(lively.stocks_url, "Q.SPY") as joined:
        lively.control("malformed", kind=kind)
        bad = json.loads(ELEMENTS[kind])
        while bad not in (frame := joined.frame()):
            pass
        assert len(frame) > 1


@pytest.mark.parametrize("kind", sorted(FRAMES.keys() - {"utf8"}))
def test_a_malformed_frame_comes_as_it_is(quiet: SimulatorProcess, kind: str) -> None:
    with subscriber(quiet.stocks_url, "T.SPY") as joined:
        quiet.control("malformed", kind=kind)
        assert joined.socket.recv(WAIT_S, decode=False) == FRAMES[kind]


def test_text_that_is_not_utf8_breaks_the_connection(start: Start) -> None:
    simulator = start(*QUIET)
    with subscriber(simulator.stocks_url, "T.SPY") as joined:
        simulator.control("malformed", kind="utf8")
        with pytest.raises(ConnectionClosedError) as ended:
            joined.socket.recv(WAIT_S, decode=True)
        assert ended.value.sent is not None
        assert ended.value.sent.code == 1007


def test_a_binary_frame_is_binary(start: Start) -> None:
    simulator = start(*QUIET)
    with subscriber(simulator.stocks_url, "T.SPY") as joined:
        simulator.control("malformed", kind="binary")
        assert isinstance(joined.socket.recv(WAIT_S), bytes)


def test_delayed_makes_the_next_trades_late(start: Start) -> None:
    simulator = start("--rate", "0", "--quote-share", "0")
    with subscriber(simulator.stocks_url, "T.SPY") as joined:
        simulator.control("delayed", ms=700_000, n=2)
        simulator.control("rate", events_per_s=1_000)
        late = [event["t"] - event["pt"] == 700_000 for event in joined.take(5)]
    assert late == [True, True, False, False, False]


def test_the_clock_jumps_both_ways(start: Start) -> None:
    simulator = start()
    with subscriber(simulator.stocks_url, "T.SPY") as joined:
        for ms in (3_600_000, -7_200_000):
            before = joined.take(1)[0]["t"]
            simulator.control("clock_jump", ms=ms)
            while abs((event := joined.take(1)[0])["t"] - before) < 3_000_000:
                pass
            assert event["t"] - before == pytest.approx(ms, abs=5_000)


def test_the_rate_changes_for_the_market_that_is_named(start: Start) -> None:
    simulator = start(*QUIET)
    with subscriber(simulator.stocks_url, "T.SPY", "Q.SPY") as joined:
        simulator.control("rate", events_per_s=5_000)
        joined.take(500)
        simulator.control("rate", events_per_s=0)
        stats = simulator.control("stats")
    assert (stats["stocks"]["rate"], stats["options"]["rate"]) == (0, 0)


def test_the_price_goes_where_it_is_told(start: Start) -> None:
    simulator = start("--volatility", "0", "--quote-share", "0")
    with subscriber(simulator.stocks_url, "T.SPY") as joined:
        simulator.control("price", value=700)
        while joined.take(1)[0]["p"] < 699:
            pass
        simulator.control("price", value=690, over_s=0.2)
        prices = [joined.take(1)[0]["p"]]
        while prices[-1] > 690.02:
            prices += [joined.take(1)[0]["p"]]
    assert {int(price) for price in prices} >= set(range(691, 700))
    assert simulator.control("stats")["price"] == 690


def test_an_exact_frame_is_sent_byte_for_byte(start: Start) -> None:
    simulator = start(*QUIET)
    with subscriber(simulator.stocks_url, "T.SPY") as joined:
        address = urlsplit(simulator.control_url)
        with socket.create_connection((address.hostname, address.port or 0)) as control:
            control.sendall(b'{"do":"send","frame":[ {"ev":"T", "p":686.10} ]}\n')
            assert joined.socket.recv(WAIT_S) == '[ {"ev":"T", "p":686.10} ]'
            assert json.loads(control.makefile().readline()) == {"ok": True, "connections": 1}


def test_stats_tell_what_was_sent_and_what_was_asked(start: Start) -> None:
    simulator = start("--count", "100")
    with subscriber(simulator.stocks_url, "T.SPY", "Q.SPY") as joined:
        events = joined.take(100)
        joined.send("unsubscribe", "Q.SPY")
        stats = simulator.wait_until(lambda stats: len(stats["stocks"]["history"]) == 3)["stocks"]
    trades = sum(event["ev"] == "T" for event in events)
    assert stats["events"] == {"T": trades, "Q": 100 - trades}
    assert (stats["generated"], stats["finished"], stats["opened"]) == (100, True, 1)
    assert [(said["action"], said["params"]) for said in stats["history"]] == [
        *(("auth", ""), ("subscribe", "T.SPY,Q.SPY"), ("unsubscribe", "Q.SPY")),
    ]
    assert stats["history"][1]["answers"][0] == "success: subscribed to: T.SPY"
    [connection] = stats["connections"]
    assert connection["subscriptions"] == ["T.SPY"]
    assert connection["events"] == stats["events"]


@pytest.mark.parametrize(
    ("do", "fields", "why"),
    [
        ("dance", {}, "dance"),
        ("rate", {}, "events_per_s"),
        ("rate", {"events_per_s": -1}, ">= 0"),
        ("drop", {"market": "crypto"}, "crypto"),
        ("drop", {"hard": True}, "hard"),
        ("malformed", {"kind": "purple"}, "purple.*no_price"),
        ("refuse", {"for_s": 1, "how": "rudely"}, "rudely"),
    ],
)
def test_a_command_that_makes_no_sense_is_answered_with_the_reason(
    quiet: SimulatorProcess, do: str, fields: dict[str, Any], why: str
) -> None:
    with pytest.raises(ChildFailedError, match=why):
        quiet.control(do, **fields)
