from __future__ import annotations

import asyncio
import signal
import subprocess
import sys

import pytest

from ingestor.cli import stream_check as test_stream
from ingestor.model.errors import ExitCode
from tests.client.streams import (
    DEPTH,
    TRADES,
    as_json,
    as_packed,
    depth,
    in_turns,
    packed,
    publish,
    trades,
)
from tests.encode.examples import block_of
from tests.nats_servers import NatsServer

Captured = pytest.CaptureFixture[str]


def store(server: NatsServer, *messages: tuple[str, bytes]) -> None:
    asyncio.run(publish(server, messages))


def test_a_good_stream_passes_and_is_summed_up(nats_server: NatsServer, capsys: Captured) -> None:
    runs = in_turns(block_of(trades(20)), block_of(depth(20)))
    store(nats_server, *as_packed(runs), *as_json(trades(5, first=20)))
    assert test_stream.main(["--nats", nats_server.url, "--no-follow"]) == ExitCode.OK
    out = capsys.readouterr().out
    assert "messages   45" in out
    assert "sequences  1 to 45" in out
    assert f"events     25 on {TRADES}" in out
    assert f"events     20 on {DEPTH}" in out
    assert "violations none" in out
    assert "events/s" in out


def test_replays_are_told_apart_and_a_day_that_comes_twice_is_named(
    nats_server: NatsServer, capsys: Captured
) -> None:
    store(nats_server, *as_json(trades(5)), *as_json(trades(5)))
    assert test_stream.main(["--nats", nats_server.url, "--no-follow"]) == ExitCode.OK
    out = capsys.readouterr().out
    assert "replays    2, one after the other" in out
    assert "  2: sequences 6 to 10, 5 events from " in out
    assert "; begins as replay 1 does: published again" in out
    assert "violations none" in out


def test_violations_are_named_and_end_in_exit_code_1(
    nats_server: NatsServer, capsys: Captured
) -> None:
    store(nats_server, *as_json(depth(1)), *as_json(trades(1)), (TRADES, b"{}"))
    assert test_stream.main(["--nats", nats_server.url, "--no-follow"]) == ExitCode.INTERNAL
    out = capsys.readouterr().out
    assert "violations 1 order, 1 schema" in out
    assert "order: message 2 on market.futures.trades" in out
    assert "schema: message 3 on market.futures.trades" in out


def test_a_count_of_messages_ends_it(nats_server: NatsServer, capsys: Captured) -> None:
    store(nats_server, *as_json(trades(9)))
    assert test_stream.main(["--nats", nats_server.url, "--count", "4"]) == ExitCode.OK
    assert "messages   4," in capsys.readouterr().out


def test_a_silent_stream_ends_it_where_that_is_asked_for(
    nats_server: NatsServer, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(test_stream, "REPORT_EVERY_S", 0.05)
    store(nats_server, *as_json(trades(3)))
    assert test_stream.main(["--nats", nats_server.url, "--idle", "0.2"]) == ExitCode.OK
    assert "messages   3," in capsys.readouterr().out
    assert test_stream.main(["--nats", nats_server.url, "--new", "--idle", "0.2"]) == ExitCode.OK
    assert "messages   0," in capsys.readouterr().out


def test_left_out_subjects_are_no_gaps(nats_server: NatsServer, capsys: Captured) -> None:
    store(nats_server, *(m for at in range(3) for m in as_json(trades(1)) + as_json(depth(1))))
    flags = ["--nats", nats_server.url, "--subject", DEPTH, "--no-follow"]
    assert test_stream.main(flags) == ExitCode.OK
    assert "sequences  2 to 6" in capsys.readouterr().out


def test_a_missing_stream_is_not_taken_for_a_good_one(
    nats_server: NatsServer, capsys: Captured
) -> None:
    assert test_stream.main(["--nats", nats_server.url]) == ExitCode.STREAM
    out, err = capsys.readouterr()
    assert out == ""
    assert "stream not found" in err


def test_ctrl_c_still_prints_the_report(nats_server: NatsServer) -> None:
    store(nats_server, *packed(trades(30)))
    process = subprocess.Popen(
        [sys.executable, "-m", "ingestor.test_stream", "--nats", nats_server.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert "events/s" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert f"events     30 on {TRADES}" in out
    assert err == ""
    assert process.returncode == ExitCode.INTERRUPTED


def test_a_line_of_rates_has_events_messages_and_bytes() -> None:
    line = test_stream.rate_line(3.0, 0.5, (2_000_000, 300, 5_000_000), (1_000_000, 100, 1_000_000))
    assert line.split() == [
        "3.0",
        "s",
        "2,000,000",
        "events/s",
        "400",
        "messages/s",
        "8.0",
        "MB/s",
        "2,000,000",
        "events",
    ]
