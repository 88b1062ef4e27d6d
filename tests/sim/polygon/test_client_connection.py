"""A real client on the wire: handshake, acknowledgements, limits, data."""

from __future__ import annotations

import json
import ssl
import subprocess
import time
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus
from websockets.frames import CloseCode

from tests.sim.polygon.conftest import Start
from tests.sim.polygon.helpers import WAIT_S, Client, client, subscriber

QUIET = ("--rate", "0", "--options-rate", "0")


def closed(joined: Client) -> ConnectionClosed:
    """Read until the connection ends; say how it ended."""
    try:
        while True:
            joined.frame()
    except ConnectionClosed as ended:
        return ended


def test_a_session_goes_from_connected_to_data(start: Start) -> None:
    with subscriber(start().stocks_url, "T.SPY", "Q.SPY") as joined:
        assert {event["ev"] for event in joined.take(200)} == {"T", "Q"}


def test_acknowledgements_of_one_request_share_a_frame(start: Start) -> None:
    with client(start(*QUIET).stocks_url) as joined:
        joined.log_in()
        joined.send("subscribe", "T.SPY,Q.SPY")
        assert [element["message"] for element in joined.frame()] == [
            *("subscribed to: T.SPY", "subscribed to: Q.SPY"),
        ]


def test_some_acknowledgements_ride_inside_a_data_frame(start: Start) -> None:
    with subscriber(start().stocks_url, "T.SPY") as joined:
        joined.subscribe("Q.SPY")
        kinds = [{element["ev"] for element in frame} for frame in joined.frames]
        assert any("status" in frame and len(frame) > 1 for frame in kinds)


def test_a_wrong_key_is_told_so_and_dropped_without_a_close_frame(start: Start) -> None:
    with client(start().stocks_url) as joined:
        joined.status()
        joined.send("auth", "wrong")
        assert joined.status() == ("auth_failed", "authentication failed")
        ended = closed(joined)
        assert ended.rcvd is None


def test_a_market_outside_the_plan_has_no_access(start: Start) -> None:
    simulator = start("--plan", "stocks-T")
    with client(simulator.options_url) as joined:
        joined.status()
        joined.send("auth", "simulator")
        assert joined.status()[1] == "Your plan doesn't include websocket access."
        closed(joined)


def test_a_topic_outside_the_plan_is_refused(start: Start) -> None:
    with client(start("--plan", "stocks-T").stocks_url) as joined:
        joined.log_in()
        joined.send("subscribe", "T.SPY,Q.SPY")
        assert [joined.status() for _ in range(2)] == [
            ("success", "subscribed to: T.SPY"),
            ("error", "not authorized"),
        ]


def test_who_does_not_authenticate_in_time_is_dropped(start: Start) -> None:
    with client(start("--auth-timeout", "0.05").stocks_url) as joined:
        joined.status()
        assert joined.status() == ("auth_timeout", "No authentication request received.")
        assert closed(joined).rcvd is None


def test_who_authenticates_in_time_stays(start: Start) -> None:
    with subscriber(start("--auth-timeout", "0.3").stocks_url, "T.SPY") as joined:
        started = time.monotonic()
        while time.monotonic() < started + 0.5:
            joined.frame()


def test_an_unknown_ticker_is_acknowledged_and_never_sent(start: Start) -> None:
    simulator = start()
    with subscriber(simulator.stocks_url, "T.NOTATICKER") as joined:
        joined.subscribe("T.ALSONOT")
        assert simulator.control("stats")["stocks"]["generated"] == 0
        assert all(e["ev"] == "status" for frame in joined.frames for e in frame)


def test_a_delayed_tier_gets_nothing_at_all(start: Start) -> None:
    with client(start("--delayed-tier", "options").options_url) as joined:
        joined.log_in()
        joined.send("subscribe", "T.*")
        with pytest.raises(TimeoutError):
            joined.frame(timeout_s=0.3)


def test_only_the_subscribed_topic_is_sent(start: Start) -> None:
    with subscriber(start().stocks_url, "T.SPY") as joined:
        assert {event["ev"] for event in joined.take(50)} == {"T"}


def test_unsubscribing_ends_the_data(start: Start) -> None:
    simulator = start()
    with subscriber(simulator.stocks_url, "T.SPY") as joined:
        joined.send("unsubscribe", "T.SPY")
        while joined.status() != ("success", "unsubscribed to: T.SPY"):
            pass
        reached = simulator.control("stats")["stocks"]["generated"]
        joined.subscribe("T.NOTATICKER")
        assert simulator.control("stats")["stocks"]["generated"] == reached


def test_option_trades_of_the_whole_chain_come_for_the_wildcard(start: Start) -> None:
    with subscriber(start("--options-rate", "2000").options_url, "T.*") as joined:
        events = joined.take(300)
        assert {event["ev"] for event in events} == {"T"}
        assert len({event["sym"] for event in events}) > 10


def test_both_markets_run_beside_each_other(start: Start) -> None:
    simulator = start()
    with (
        subscriber(simulator.stocks_url, "Q.SPY") as stocks,
        subscriber(simulator.options_url, "T.*") as options,
    ):
        assert stocks.take(1)[0]["sym"] == "SPY"
        assert options.take(1)[0]["sym"].startswith("O:SPY")


def test_the_older_connection_is_evicted(start: Start) -> None:
    simulator = start("--quota-delay", "0.05")
    with (
        subscriber(simulator.stocks_url, "T.SPY") as older,
        subscriber(simulator.stocks_url, "T.SPY") as newer,
    ):
        ended = closed(older)
        assert older.frames[-1][-1]["status"] == "max_connections"
        assert ended.rcvd is not None
        assert ended.rcvd.code == CloseCode.POLICY_VIOLATION
        newer.take(10)


def test_or_the_newer_one_is_refused(start: Start) -> None:
    simulator = start("--quota-delay", "0.05", "--over-quota", "refuse-newer")
    with (
        subscriber(simulator.stocks_url, "T.SPY") as older,
        subscriber(simulator.stocks_url, "T.SPY") as newer,
    ):
        ended = closed(newer)
        assert ended.rcvd is not None
        assert ended.rcvd.code == CloseCode.POLICY_VIOLATION
        older.take(10)


def test_each_market_has_its_own_quota(start: Start) -> None:
    simulator = start("--quota-delay", "0")
    with (
        subscriber(simulator.stocks_url, "T.SPY") as stocks,
        subscriber(simulator.options_url, "T.*") as options,
    ):
        options.take(20)
        stocks.take(20)


def test_each_key_has_its_own_quota(start: Start) -> None:
    simulator = start("--quota-delay", "0", "--standby-api-key", "second")
    with (
        subscriber(simulator.stocks_url, "T.SPY") as one,
        client(simulator.stocks_url) as other,
    ):
        other.log_in("second")
        other.subscribe("T.SPY")
        other.take(20)
        one.take(20)


def test_a_higher_quota_lets_two_clients_see_the_same_events(start: Start) -> None:
    simulator = start("--quota", "2", "--rate", "0")
    with (
        subscriber(simulator.stocks_url, "T.SPY", "Q.SPY") as one,
        subscriber(simulator.stocks_url, "Q.SPY", "T.SPY") as other,
    ):
        simulator.control("rate", events_per_s=1_000)
        assert one.take(100) == other.take(100)


def test_an_unknown_path_is_not_found(start: Start) -> None:
    url = start().stocks_url.replace("/stocks", "/crypto")
    with pytest.raises(InvalidStatus) as refused, client(url):
        pass
    assert refused.value.response.status_code == 404


def test_compression_is_not_agreed_to(start: Start) -> None:
    with client(start().stocks_url, compression="deflate") as joined:
        assert joined.socket.protocol.extensions == []


def test_pings_are_answered(start: Start) -> None:
    with client(start().stocks_url) as joined:
        assert joined.socket.ping().wait(WAIT_S)


def test_a_close_frame_is_answered(start: Start) -> None:
    simulator = start()
    with client(simulator.stocks_url) as joined:
        joined.socket.close(1000)
        assert joined.socket.close_code == 1000
    simulator.wait_until(lambda stats: not stats["stocks"]["connections"])


def test_what_cannot_be_read_is_ignored(start: Start) -> None:
    with client(start().stocks_url) as joined:
        joined.socket.send("hello")
        joined.socket.send('{"action":"auth"}')
        joined.log_in()


def test_a_request_may_come_in_fragments(start: Start) -> None:
    with client(start().stocks_url) as joined:
        joined.status()
        joined.socket.send(['{"action":"auth",', '"params":"simulator"}'])
        assert joined.status()[0] == "auth_success"


def test_exactly_the_counted_events_are_sent(start: Start) -> None:
    simulator = start("--count", "5000", "--rate", "50000")
    with subscriber(simulator.stocks_url, "T.SPY", "Q.SPY") as joined:
        joined.take(5_000)
        stats = simulator.wait_until(lambda stats: bool(stats["stocks"]["finished"]))
        assert sum(stats["stocks"]["events"].values()) == 5_000
        with pytest.raises(TimeoutError):
            joined.frame(timeout_s=0.2)


def test_the_same_seed_sends_the_same_market(start: Start) -> None:
    runs = []
    for _ in range(2):
        simulator = start("--count", "300", "--volatility", "0", "--seed", "9")
        with subscriber(simulator.stocks_url, "T.SPY", "Q.SPY") as joined:
            events = joined.take(300)
        runs.append([{k: v for k, v in e.items() if k not in ("t", "pt", "trft")} for e in events])
    assert runs[0] == runs[1]


def test_the_rate_is_kept_over_time(start: Start) -> None:
    with subscriber(start("--rate", "20000").stocks_url, "T.SPY", "Q.SPY") as joined:
        events = joined.take(20_001)
        assert events[-1]["t"] - events[0]["t"] == pytest.approx(1_000, abs=1)


def test_the_time_of_an_event_is_now(start: Start) -> None:
    with subscriber(start().stocks_url, "T.SPY") as joined:
        assert joined.take(1)[0]["t"] == pytest.approx(time.time() * 1_000, abs=2_000)


def test_the_price_walks_along_the_path(start: Start) -> None:
    simulator = start("--volatility", "0", "--path", "linear:+20:0.5s", "--quote-share", "0")
    with subscriber(simulator.stocks_url, "T.SPY") as joined:
        prices = [event["p"] for event in joined.take(700)]
    assert prices[0] == pytest.approx(686, abs=0.1)
    assert prices[-1] == pytest.approx(706, abs=0.1)
    assert {int(price) for price in prices} >= set(range(687, 706))


def test_a_client_that_does_not_read_is_cut_without_a_word(start: Start) -> None:
    simulator = start("--rate", "200000", "--buffer-bytes", "100000")
    with subscriber(simulator.stocks_url, "T.SPY", "Q.SPY") as joined:
        simulator.wait_until(lambda stats: not stats["stocks"]["connections"], timeout_s=30)
        assert isinstance(closed(joined), ConnectionClosedError)


def test_it_speaks_tls(start: Start, tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    request = [
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    names = [
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-keyout",
        str(key),
        "-out",
        str(certificate),
    ]
    subprocess.run(["openssl", *request, *names], check=True, capture_output=True)
    simulator = start("--tls-cert", str(certificate), "--tls-key", str(key))
    assert simulator.stocks_url.startswith("wss://")
    trusted = ssl.create_default_context(cafile=str(certificate))
    with client(simulator.stocks_url, ssl=trusted) as joined:
        joined.log_in()
        joined.subscribe("T.SPY")
        joined.take(10)
    assert json.loads(json.dumps(simulator.control("stats")))["stocks"]["events"]["T"] >= 10
