"""The live command as its user meets it: what it publishes, what it says, how it ends."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ingestor.feeds.polygon.hours import OPTIONS, MarketHours
from ingestor.feeds.polygon.journal_feed import JournalFeed
from ingestor.journal.format import Market
from ingestor.model.errors import ExitCode
from ingestor.model.feed_status import STATUS_STREAM, What, decode_status
from ingestor.model.units import new_york_date, now_ns
from ingestor.sim.polygon.simulator_process import SimulatorProcess
from tests.live_cli import API_KEY, feeds_of, live, simulator, start, stored, subscriptions, until
from tests.nats_servers import NatsServer
from tests.ports import free_port
from tests.processes import data_path, ended
from tests.replay_cli import Finished, Stored, finish, read_stream

QUOTES, TRADES = "market.stocks.quotes", "market.stocks.trades"
OPTION_TRADES = "market.options.trades"
T_MS = 1_765_895_400_001
OPENING = 686.0


@pytest.fixture
def vendor() -> Iterator[SimulatorProcess]:
    """A lively market around 686."""
    with simulator("--rate", "500", "--options-rate", "500", "--volatility", "0") as running:
        yield running


@pytest.fixture
def silent_vendor() -> Iterator[SimulatorProcess]:
    """Sends what it is told to, and nothing else."""
    with simulator("--rate", "0", "--options-rate", "0") as running:
        yield running


def expiry() -> dt.date:
    return MarketHours(OPTIONS).trading_days_from(new_york_date(now_ns()), 1)[0]


def contract(strike: float, right: str = "C") -> str:
    return f"O:SPY{expiry():%y%m%d}{right}{round(strike * 1000):08d}"


def begun(
    vendor: SimulatorProcess, server: NatsServer, cwd: Path, *more: str
) -> subprocess.Popen[str]:
    """Start a live run that ends with a JSON summary; return when it is subscribed."""
    process = start("--nats", server.url, "--summary", "json", *more, cwd=cwd, env=feeds_of(vendor))
    until(lambda: {"T.SPY", "Q.SPY"} <= subscriptions(vendor, "stocks"), "stocks subscribed")
    return process


def flowing(
    vendor: SimulatorProcess, server: NatsServer, cwd: Path, *more: str
) -> subprocess.Popen[str]:
    """Start a live run; return when both feeds are subscribed and events are stored."""
    process = begun(vendor, server, cwd, *more)
    until(lambda: bool(subscriptions(vendor, "options")), "options subscribed")
    until(lambda: stored(server.url) > 0, "events stored")
    return process


def stopped(process: subprocess.Popen[str], number: signal.Signals = signal.SIGTERM) -> Finished:
    process.send_signal(number)
    return finish(process)


def children(pid: int) -> list[int]:
    """Pids of the processes of a run: stocks, options, publisher."""
    return data_path(pid)


def last_line(finished: Finished) -> str:
    return finished.err.strip().splitlines()[-1]


def statuses(server: NatsServer) -> list[Any]:
    return [decode_status(one.data) for one in read_stream(server.url, STATUS_STREAM)]


def without_receipt(message: Stored) -> bytes:
    """The message's bytes with 0 for when we received it, which must be a recent time."""
    recv_ns = json.loads(message.data)["ts_recv_ns"]
    assert abs(now_ns() - recv_ns) < 60 * 10**9
    return message.data.replace(b'"ts_recv_ns":%d' % recv_ns, b'"ts_recv_ns":0')


# What is published


def test_what_the_vendor_sends_is_published_as_the_contract_says(
    silent_vendor: SimulatorProcess, any_nats_server: NatsServer, tmp_path: Path
) -> None:
    process = begun(silent_vendor, any_nats_server, tmp_path)
    send_stocks(silent_vendor)
    call = contract(OPENING)
    until(lambda: f"Q.{call}" in subscriptions(silent_vendor, "options"), "contract subscribed")
    send_options(silent_vendor, call)
    until(lambda: stored(any_nats_server.url) == 6, "all stored")
    finished = stopped(process)
    found = read_stream(any_nats_server.url)
    assert [(one.subject, without_receipt(one)) for one in found] == expected(call)
    assert finished.summary["by_subject"] == {QUOTES: 1, TRADES: 3, OPTION_TRADES: 2}


def send_stocks(vendor: SimulatorProcess) -> None:
    trade = {"ev": "T", "sym": "SPY", "t": T_MS + 1, "x": 11}
    vendor.control(
        "send",
        frame=[
            {"ev": "Q", "sym": "SPY", "bx": 15, "ax": 12, "bp": OPENING, "ap": 686.01,
             "bs": 320, "as": 200, "t": T_MS, "q": 1, "z": 2},
            {"ev": "T", "sym": "SPY", "i": "1", "x": 4, "p": 686.01, "s": 100, "c": [14, 41],
             "t": T_MS, "q": 2, "z": 2},
            {**trade, "p": OPENING, "s": 7, "q": 3},
            {**trade, "p": 686.005, "s": 1},
        ],
    )  # fmt: skip


def send_options(vendor: SimulatorProcess, call: str) -> None:
    trade = {"ev": "T", "x": 302, "c": [233], "t": T_MS + 2}
    vendor.control(
        "send",
        market="options",
        frame=[
            {"ev": "Q", "sym": call, "bx": 302, "ax": 302, "bp": 1.23, "ap": 1.25, "bs": 5,
             "as": 5, "t": T_MS, "q": 4},
            {**trade, "sym": call, "p": 1.25, "s": 2, "q": 5},
            {**trade, "sym": contract(OPENING, "P"), "p": 0.98, "s": 1, "q": 6},
        ],
    )  # fmt: skip


def expected(call: str) -> list[tuple[str, bytes]]:
    """What must be in the stream of `send_stocks` and `send_options`, 0 as the time of receipt."""
    option = f'"exp_date":"{expiry()}","strike":686.0,"right"'
    put = contract(OPENING, "P")
    stocks = [
        (
            QUOTES,
            event(1)
            + '"symbol":"SPY","bid_px":686.0,"ask_px":686.01,"bid_sz":320,"ask_sz":200,'
            + '"bid_exch":15,"ask_exch":12,"seq":1}',
        ),
        (
            TRADES,
            event(1)
            + '"symbol":"SPY","price":686.01,"size":100,"exchange":4,"conditions":[14,41],'
            + '"seq":2,"aggressor":1}',
        ),
        (
            TRADES,
            event(2)
            + '"symbol":"SPY","price":686.0,"size":7,"exchange":11,"conditions":[],'
            + '"seq":3,"aggressor":-1}',
        ),
        (
            TRADES,
            event(2)
            + '"symbol":"SPY","price":686.005,"size":1,"exchange":11,"conditions":[],'
            + '"seq":null,"aggressor":0}',
        ),
    ]
    options = [
        (
            OPTION_TRADES,
            event(3)
            + f'"underlying":"SPY","option_symbol":"{call}",{option}:"C","price":1.25,"size":2,'
            + '"opt_bid":1.23,"opt_ask":1.25,"aggressor":1,"conditions":[233],"seq":5}',
        ),
        (
            OPTION_TRADES,
            event(3)
            + f'"underlying":"SPY","option_symbol":"{put}",{option}:"P","price":0.98,"size":1,'
            + '"opt_bid":null,"opt_ask":null,"aggressor":0,"conditions":[233],"seq":6}',
        ),
    ]
    return [(subject, text.encode()) for subject, text in (*stocks, *options)]


def event(ms: int) -> str:
    """How an event begins that happened so many ms after half past nine."""
    return f'{{"ts_event_ns":{T_MS - 1 + ms}000000,"ts_recv_ns":0,"source":"polygon_ws",'


def test_the_contracts_follow_the_price(
    vendor: SimulatorProcess, nats_server: NatsServer, tmp_path: Path
) -> None:
    process = flowing(vendor, nats_server, tmp_path)
    for price in (OPENING, 693.0):
        vendor.control("price", value=price)
        around = {contract(price + k, right) for k in range(-3, 4) for right in "CP"}
        wanted = {f"{topic}.{one}" for one in around for topic in "TQ"}
        until(lambda: subscriptions(vendor, "options") == wanted, f"strikes around {price}")  # noqa: B023
    until(lambda: bool(strikes_traded(nats_server) - set(range(683, 690))), "a new strike traded")
    assert stopped(process).exit_code == 143
    assert strikes_traded(nats_server) <= set(range(683, 697))


def strikes_traded(server: NatsServer) -> set[float]:
    return {
        json.loads(one.data)["strike"]
        for one in read_stream(server.url)
        if one.subject == OPTION_TRADES
    }


def test_packed_messages_and_another_stream(
    vendor: SimulatorProcess, nats_server: NatsServer, tmp_path: Path
) -> None:
    config = tmp_path / "live.toml"
    config.write_text('[publish]\nencoding = "packed"\n[polygon]\nfeeds = ["stocks"]\n')
    more = ("--config", str(config), "--stream", "OTHER")
    process = begun(vendor, nats_server, tmp_path, *more)
    until(lambda: stored(nats_server.url, "OTHER") > 0, "events stored")
    summary = stopped(process).summary
    assert summary["by_subject"].keys() == {QUOTES, TRADES}
    assert list(summary["feeds"]) == ["stocks"]
    messages = read_stream(nats_server.url, "OTHER")
    assert {one.data[0] for one in messages} == {0xAB}


def test_the_demo_needs_no_key_and_ends_by_itself(nats_server: NatsServer, tmp_path: Path) -> None:
    finished = live("--demo", "--for", "2", "--nats", nats_server.url, cwd=tmp_path)
    assert finished.exit_code == 0, finished.err
    assert "2 s are over: stopping in order" in finished.err
    sources = {json.loads(one.data)["source"] for one in read_stream(nats_server.url)}
    assert sources == {"sim"}
    for subject in (QUOTES, TRADES, OPTION_TRADES):
        assert re.search(rf"{subject} +[\d,]+$", finished.out, re.MULTILINE)


def test_what_the_vendor_sends_is_recorded_and_read_back_as_the_same_events(
    silent_vendor: SimulatorProcess, nats_server: NatsServer, tmp_path: Path
) -> None:
    process = begun(silent_vendor, nats_server, tmp_path, "--record", "journal")
    send_stocks(silent_vendor)
    until(lambda: stored(nats_server.url) == 4, "all stored")
    assert stopped(process).exit_code == 143
    recorded = JournalFeed(directory=tmp_path / "journal", market=Market.STOCKS)
    records = [record for block in recorded.blocks() for record in block.records]
    recv_ns = [json.loads(one.data)["ts_recv_ns"] for one in read_stream(nats_server.url)]
    assert [int(one["ts_recv_ns"]) for one in records] == recv_ns
    assert len(recv_ns) == 4


def test_a_journal_that_cannot_be_written_is_said_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    env = {"POLYGON_API_KEY": API_KEY}
    finished = live("--record", "file/journal", cwd=tmp_path, env=env)
    assert finished.exit_code == ExitCode.CONFIGURATION
    assert "the journal folder file/journal cannot be written to" in last_line(finished)
    assert not (tmp_path / ".data").exists()


# What is wrong before it starts


@pytest.mark.parametrize(
    ("more", "env", "exit_code", "sentence"),
    [
        ([], {"POLYGON_API_KEY": ""}, ExitCode.VENDOR_REFUSED, "set POLYGON_API_KEY"),
        ([], {"POLYGON_STOCKS_URL": "http://x/"}, ExitCode.CONFIGURATION, "ws://host:port/path"),
        ([], {"POLYGON_OPTIONS_URL": "ws://a:99999/"}, ExitCode.CONFIGURATION, "polygon.options"),
        (["--for", "0"], {}, ExitCode.CONFIGURATION, "live.stop_after_s = '0' (flag --for)"),
        (["--speed", "1"], {}, ExitCode.CONFIGURATION, "--speed"),
        (["--api-key", API_KEY], {}, ExitCode.CONFIGURATION, "set POLYGON_API_KEY instead"),
        ([f"--api-key={API_KEY}"], {}, ExitCode.CONFIGURATION, "set POLYGON_API_KEY instead"),
        (["--nats", "http://x"], {}, ExitCode.CONFIGURATION, "not of the form nats://host:port"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_sentence_and_nothing_is_started(
    tmp_path: Path, more: list[str], env: dict[str, str], exit_code: int, sentence: str
) -> None:
    where = {"POLYGON_API_KEY": API_KEY, "NATS_URL": "nats://127.0.0.1:9"}
    finished = live(*more, cwd=tmp_path, env=where | env)
    assert finished.exit_code == exit_code
    assert sentence in last_line(finished)
    assert finished.out == ""
    assert API_KEY not in finished.err
    assert not (tmp_path / ".data").exists()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('[polygon]\nfeeds = ["options"]', "add it, or set strikes.focus"),
        ('[strikes]\nunderlying = "QQQ"', "comes from polygon.symbols, which are SPY"),
        ("[strikes]\nstep = 0.0005", "strikes.step = 0.0005"),
        ("[strikes]\nfocus = 700.0001", "strikes.focus = 700.0001 is not allowed: expected a mult"),
        ("[polygon]\napi_key = 'two words'", "polygon.api_key = (hidden)"),
    ],
)
def test_settings_that_do_not_go_together_are_named(
    tmp_path: Path, text: str, sentence: str
) -> None:
    config = tmp_path / "live.toml"
    config.write_text(text)
    env = {"POLYGON_API_KEY": API_KEY} if "api_key" not in text else {}
    finished = live("--config", str(config), cwd=tmp_path, env=env)
    assert finished.exit_code == ExitCode.CONFIGURATION
    assert sentence in last_line(finished)


# What the vendor does


def test_a_refused_key_ends_the_run_at_once_without_a_retry(
    silent_vendor: SimulatorProcess, nats_server: NatsServer, tmp_path: Path
) -> None:
    env = feeds_of(silent_vendor, POLYGON_API_KEY="wr0ng-k3y", NATS_URL=nats_server.url)
    finished = live(cwd=tmp_path, env=env)
    assert finished.exit_code == ExitCode.VENDOR_REFUSED
    assert "the vendor refuses the API key: authentication failed" in last_line(finished)
    assert "wr0ng" not in finished.err + finished.out
    stats = silent_vendor.control("stats")
    assert max(stats["stocks"]["opened"], stats["options"]["opened"]) == 1


def test_an_endpoint_where_nobody_listens_is_said_and_tried_until_somebody_does(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    port = free_port()
    env = {
        "POLYGON_API_KEY": API_KEY,
        "POLYGON_STOCKS_URL": f"ws://127.0.0.1:{port}/stocks",
        "POLYGON_OPTIONS_URL": f"ws://127.0.0.1:{port}/options",
    }
    process = start("--nats", nats_server.url, "--summary", "json", cwd=tmp_path, env=env)
    assert process.stderr
    refused = f"cannot connect to ws://127.0.0.1:{port}/stocks"
    assert any(refused in line for line in process.stderr)
    with simulator("--port", str(port)):
        until(lambda: stored(nats_server.url) > 0, "events stored")
        finished = stopped(process)
    assert finished.exit_code == 143


def test_an_endpoint_that_is_none_is_said(
    vendor: SimulatorProcess, nats_server: NatsServer, tmp_path: Path
) -> None:
    nowhere = vendor.stocks_url.replace("/stocks", "/nowhere")
    env = feeds_of(vendor, POLYGON_STOCKS_URL=nowhere)
    finished = live("--for", "3", "--nats", nats_server.url, cwd=tmp_path, env=env)
    assert finished.exit_code == 0
    assert f"{nowhere}: server rejected WebSocket connection: HTTP 404" in finished.err


def test_a_lost_connection_is_made_anew_and_its_gap_is_counted_and_published(
    vendor: SimulatorProcess, nats_server: NatsServer, tmp_path: Path
) -> None:
    process = flowing(vendor, nats_server, tmp_path)
    vendor.control("drop", market="stocks")
    until(lambda: What.GAP in {one.what for one in published_statuses(nats_server)}, "gap told")
    finished = stopped(process)
    feed = finished.summary["feeds"]["stocks"]
    assert (feed["gaps"], feed["reconnects"]) == (1, 1)
    gap = next(one for one in statuses(nats_server) if one.what is What.GAP)
    assert (gap.feed, gap.from_event_ns < gap.to_event_ns) == ("stocks", True)


def published_statuses(server: NatsServer) -> list[Any]:
    return statuses(server) if stored(server.url, STATUS_STREAM) else []


# How it ends


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_says_goodbye_publishes_what_came_and_reports_it(
    vendor: SimulatorProcess,
    nats_server: NatsServer,
    tmp_path: Path,
    number: signal.Signals,
    exit_code: int,
) -> None:
    process = flowing(vendor, nats_server, tmp_path)
    finished = stopped(process, number)
    assert finished.exit_code == exit_code
    assert finished.err.count("closed by us: 1000 (OK)") == 2
    summary = finished.summary
    records = sum(feed["records"] for feed in summary["feeds"].values())
    assert summary["published"] == records == stored(nats_server.url) > 0


def gaps_told(server: NatsServer) -> int:
    return sum(one.what is What.GAP for one in published_statuses(server))


@pytest.mark.parametrize(("place", "name"), [(0, "stocks"), (1, "options")])
def test_a_feed_that_is_killed_is_started_again_and_only_its_gap_is_missing(
    vendor: SimulatorProcess, nats_server: NatsServer, tmp_path: Path, place: int, name: str
) -> None:
    process = flowing(vendor, nats_server, tmp_path)
    until(lambda: len(subjects_of(nats_server)) >= 3, "both feeds have events")
    others = {*children(process.pid)} - {killed := children(process.pid)[place]}
    began_ns = now_ns()
    os.kill(killed, signal.SIGKILL)
    until(lambda: gaps_told(nats_server) == 1, "the gap is told")
    assert others < {*children(process.pid)}
    finished = stopped(process)
    assert finished.exit_code == 143, finished.err
    assert f"process {name} was killed by SIGKILL without a report: started again" in finished.err
    told = statuses(nats_server)
    (restart,) = (one for one in told if one.what is What.RESTART)
    (gap,) = (one for one in told if one.what is What.GAP)
    assert restart.feed == gap.feed == name
    assert gap.from_recv_ns < restart.at_ns < gap.to_recv_ns < began_ns + 15 * 10**9
    assert gap.to_recv_ns - gap.from_recv_ns < 10**9
    received: dict[str, list[int]] = {"stocks": [], "options": []}
    for one in read_stream(nats_server.url):
        feed = "options" if "options" in one.subject else "stocks"
        received[feed].append(json.loads(one.data)["ts_recv_ns"])
    # Both ends of the gap are stored, and nothing between them.
    ours = received[name]
    assert {gap.from_recv_ns, gap.to_recv_ns} <= {*ours}
    assert not [at_ns for at_ns in ours if gap.from_recv_ns < at_ns < gap.to_recv_ns]
    (other,) = received.keys() - {name}
    assert [at_ns for at_ns in received[other] if gap.from_recv_ns < at_ns < gap.to_recv_ns]
    summary = finished.summary
    assert [summary["feeds"][feed]["restarts"] for feed in (name, other)] == [1, 0]
    assert [summary["feeds"][feed]["gaps"] for feed in (name, other)] == [1, 0]
    assert summary["published"] == sum(map(len, received.values()))


def subjects_of(server: NatsServer) -> set[str]:
    return {one.subject for one in read_stream(server.url)}


def test_what_lies_between_two_runs_is_told_by_the_second(
    vendor: SimulatorProcess, nats_server: NatsServer, tmp_path: Path
) -> None:
    process = flowing(vendor, nats_server, tmp_path)
    until(lambda: len(subjects_of(nats_server)) >= 3, "both feeds have events")
    os.kill(process.pid, signal.SIGKILL)
    finish(process)
    before = read_stream(nats_server.url)
    assert gaps_told(nats_server) == 0
    process = flowing(vendor, nats_server, tmp_path)
    until(lambda: gaps_told(nats_server) == 2, "both gaps are told")
    summary = stopped(process).summary
    gaps = {one.feed: one for one in statuses(nats_server) if one.what is What.GAP}
    after = read_stream(nats_server.url)[len(before) :]
    for feed, gap in gaps.items():
        last, first = (
            [json.loads(one.data) for one in part if f".{feed}." in one.subject]
            for part in (before, after)
        )
        last.sort(key=lambda event: event["ts_recv_ns"])
        assert gap.from_recv_ns == last[-1]["ts_recv_ns"]
        assert (gap.to_recv_ns, gap.to_event_ns) == (
            first[0]["ts_recv_ns"],
            first[0]["ts_event_ns"],
        )
    assert {feed: told["gaps"] for feed, told in summary["feeds"].items()} == dict.fromkeys(gaps, 1)
    assert gaps.keys() == {"stocks", "options"}


def test_a_feed_that_dies_again_and_again_ends_the_run_with_its_causes(
    vendor: SimulatorProcess, nats_server: NatsServer, tmp_path: Path
) -> None:
    process = flowing(vendor, nats_server, tmp_path)
    known = {*children(process.pid)} - {children(process.pid)[1]}

    def started() -> set[int]:
        return {*children(process.pid)} - known

    for _ in range(6):
        until(lambda: len(started()) == 1, "started again")
        known |= (options := started())
        os.kill(options.pop(), signal.SIGKILL)
    finished = finish(process)
    assert finished.exit_code == ExitCode.CHILD_FAILED
    assert "process options has died 6 times within a minute" in last_line(finished)
    assert "was killed by SIGKILL" in last_line(finished)


def test_no_server_is_one_sentence_and_a_code_to_restart_on(
    vendor: SimulatorProcess, tmp_path: Path
) -> None:
    config = tmp_path / "live.toml"
    config.write_text("[nats]\ngive_up_after_s = 1\n")
    where = f"nats://me:hunter2@127.0.0.1:{free_port()}"
    finished = live("--nats", where, "--config", str(config), cwd=tmp_path, env=feeds_of(vendor))
    assert finished.exit_code == ExitCode.NATS_UNREACHABLE
    assert "127.0.0.1" in last_line(finished)
    assert "hunter2" not in finished.err + finished.out


def test_a_server_that_stays_away_ends_the_run_with_a_code_to_restart_on(
    vendor: SimulatorProcess, nats_server: NatsServer, tmp_path: Path
) -> None:
    config = tmp_path / "live.toml"
    config.write_text("[nats]\ngive_up_after_s = 1\n")
    process = flowing(vendor, nats_server, tmp_path, "--config", str(config))
    nats_server.kill()
    finished = finish(process)
    assert finished.exit_code == ExitCode.NATS_UNREACHABLE
    assert finished.summary["published"] > 0
    assert finished.err.count("closed by us: 1000 (OK)") == 2


def test_while_the_server_is_away_events_are_kept_as_far_as_there_is_room_and_the_rest_is_told(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    """The ring takes 16,000 events and the backlog 1,024; quotes are dropped for trades."""
    config = tmp_path / "live.toml"
    config.write_text("[process]\nring_bytes = 1048576\n[polygon]\nbacklog_rows = 1024\n")
    with simulator("--rate", "20000", "--options-rate", "50") as vendor:
        process = flowing(vendor, nats_server, tmp_path, "--config", str(config))
        nats_server.kill()
        sent = vendor.control("stats")["stocks"]["generated"]
        vendor.wait_until(lambda stats: stats["stocks"]["generated"] > sent + 60_000)
        nats_server.start()
        before = stored(nats_server.url)
        until(lambda: stored(nats_server.url) > before, "events stored again")
        finished = stopped(process)
        generated = vendor.control("stats")["stocks"]["generated"]
    assert finished.exit_code == 143, finished.err
    summary, feed = finished.summary, finished.summary["feeds"]["stocks"]
    dropped = feed["dropped_trades"] + feed["dropped_quotes"]
    assert dropped > 0
    assert feed["records"] + dropped <= generated
    records = sum(feed["records"] for feed in summary["feeds"].values())
    assert summary["published"] == records == stored(nats_server.url)
    overflow = [one for one in statuses(nats_server) if one.what is What.OVERFLOW]
    assert sum(one.lost_quotes + one.lost_trades for one in overflow) == dropped


def test_a_run_that_is_killed_leaves_nothing_behind(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    process = start("--demo", "--nats", nats_server.url, cwd=tmp_path)
    until(lambda: stored(nats_server.url) > 0, "events stored")
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    finish(process)
    names = ("simulator", "stocks", "options", "publisher", "metrics", "records")
    assert len(family) == len(names)
    assert all(ended(one) for one in family)


def test_a_demo_whose_simulator_dies_says_so_and_ends(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    process = start("--demo", "--nats", nats_server.url, cwd=tmp_path)
    until(lambda: stored(nats_server.url) > 0, "events stored")
    os.kill(children(process.pid)[0], signal.SIGKILL)
    finished = finish(process)
    assert finished.exit_code == ExitCode.CHILD_FAILED
    assert "the simulator ended by itself (exit code -9)" in last_line(finished)


# The command line


@pytest.mark.parametrize("seconds", ["1e300", "nan", "inf", "-1", "0", "1e9", "soon"])
def test_a_run_for_no_time_there_is_is_refused_with_a_sentence(
    seconds: str, tmp_path: Path
) -> None:
    finished = live("--for", seconds, cwd=tmp_path)
    assert finished.exit_code == ExitCode.CONFIGURATION
    assert "live.stop_after_s" in last_line(finished)
    assert "flag --for" in last_line(finished)
    assert len(finished.err.splitlines()) == 1


@pytest.mark.parametrize("words", [["ingestor", "live"], ["ingestor.main"]])
def test_help_teaches_how_to_begin(words: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", *words, "--help"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for word in ("ingestor-live --demo", "POLYGON_API_KEY", "exit codes:", "--for SECONDS"):
        assert word in out
    assert "--api-key" not in out


def test_the_key_is_in_no_argument_no_log_and_no_report(
    vendor: SimulatorProcess, nats_server: NatsServer, tmp_path: Path
) -> None:
    config = tmp_path / "live.toml"
    config.write_text('[log]\nlevel = "DEBUG"\nprogress_s = 0.1\n')
    process = flowing(vendor, nats_server, tmp_path, "--config", str(config))
    family = [process.pid, *children(process.pid)]
    seen = [word for pid in family for word in psutil.Process(pid).cmdline()]
    finished = stopped(process)
    shown = live("--show-config", cwd=tmp_path, env=feeds_of(vendor))
    assert len(family) == 4
    assert API_KEY not in " ".join(seen) + finished.out + finished.err + shown.out + shown.err
    assert "polygon.api_key = (hidden)" in shown.out
    assert re.search(r"stocks [\d,]+/s, \d+ ms old; options", finished.err)


def test_the_configuration_is_shown_without_what_only_a_replay_heeds(tmp_path: Path) -> None:
    shown = live("--show-config", "--record", "journal", cwd=tmp_path)
    keys = {line.split(" = ")[0] for line in shown.out.splitlines()}
    assert {"polygon.feeds", "strikes.each_side", "process.stocks_cpus", "nats.url"} <= keys
    assert not {key for key in keys if key.startswith("replay.")}
    assert "process.trades_cpus" not in keys
    assert re.search(r'record.dir = "journal" +# flag --record', shown.out)


def test_a_changed_file_is_heeded_without_a_stop_and_a_wrong_one_refused(
    silent_vendor: SimulatorProcess, nats_server: NatsServer, tmp_path: Path
) -> None:
    file = tmp_path / "live.toml"
    file.write_text('[polygon]\nsymbols = ["SPY"]\n')
    process = begun(silent_vendor, nats_server, tmp_path, "--config", str(file))
    pids = children(process.pid)
    for symbols, wanted in (("SPY", "QQQ"), {"SPY", "QQQ"}), (("SPY",), {"SPY"}):
        file.write_text(f"[polygon]\nsymbols = {json.dumps(symbols)}\n[nats]\nstream = 'OTHER'\n")
        process.send_signal(signal.SIGHUP)
        names = {f"{kind}.{symbol}" for kind in "TQ" for symbol in wanted}
        until(lambda names=names: subscriptions(silent_vendor, "stocks") == names, "followed")  # type: ignore[misc]
    file.write_text("[polygon]\nsymbols = []\n")
    process.send_signal(signal.SIGHUP)
    line = ""
    while "nothing is reloaded" not in line:
        assert process.stderr is not None
        line = process.stderr.readline()
    assert children(process.pid) == pids
    assert stopped(process).exit_code == 143
    told = [one for one in statuses(nats_server) if one.what is What.SETTINGS]
    assert [one.text for one in told] == [
        "subscriptions added T.QQQ, Q.QQQ",
        "subscriptions removed T.QQQ, Q.QQQ",
    ]
