from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time

import pytest

from ingestor.cli import tail
from ingestor.model.errors import ExitCode
from ingestor.model.feed_status import encode_status, line_of_status
from tests.client.streams import TRADES, as_json, depth, packed, publish, trades
from tests.client.test_statuses import status, tell
from tests.encode import examples
from tests.nats_servers import NatsServer

Captured = pytest.CaptureFixture[str]


def store(server: NatsServer, *messages: tuple[str, bytes]) -> None:
    asyncio.run(publish(server, messages))


def printed(server: NatsServer, captured: Captured, *flags: str) -> list[str]:
    assert tail.main(["--nats", server.url, "--no-follow", *flags]) == ExitCode.OK
    return captured.readouterr().out.splitlines()


def command(server: NatsServer, *flags: str) -> list[str]:
    return [sys.executable, "-m", "ingestor.cli.tail", "--nats", server.url, *flags]


def test_every_event_is_a_line_in_stream_order(nats_server: NatsServer, capsys: Captured) -> None:
    store(nats_server, *((example.subject, example.payload) for example in examples.CONTRACT))
    lines = printed(nats_server, capsys)
    assert [line.split()[1] for line in lines] == [
        "StockTrade",
        "StockQuote",
        "OptionTrade",
        "FuturesTrade",
        "MBP10",
    ]


def test_packed_messages_look_like_json_ones(nats_server: NatsServer, capsys: Captured) -> None:
    store(nats_server, *as_json(trades(3)), *packed(trades(3)))
    lines = printed(nats_server, capsys)
    assert len(lines) == 6
    assert lines[:3] == lines[3:]


def test_json_is_printed_as_it_was_published(nats_server: NatsServer, capsys: Captured) -> None:
    store(nats_server, *as_json(depth(2)), *packed(trades(2)))
    expected = [payload.decode() for _, payload in as_json(depth(2)) + as_json(trades(2))]
    assert printed(nats_server, capsys, "--json") == expected


def test_a_count_ends_it_even_inside_a_packed_message(
    nats_server: NatsServer, capsys: Captured
) -> None:
    store(nats_server, *as_json(trades(2)), *packed(trades(10)))
    assert len(printed(nats_server, capsys, "--count", "5")) == 5
    assert tail.main(["--nats", nats_server.url, "--follow", "--count", "2"]) == ExitCode.OK


def test_subjects_and_symbols_are_filters(nats_server: NatsServer, capsys: Captured) -> None:
    store(nats_server, *((example.subject, example.payload) for example in examples.CONTRACT))
    assert len(printed(nats_server, capsys, "--subject", "market.*.trades")) == 3
    assert len(printed(nats_server, capsys, "--symbol", "SPY")) == 3
    assert len(printed(nats_server, capsys, "--symbol", "ES.c.0,QQQ")) == 2
    assert len(printed(nats_server, capsys, "--symbol", "SPY", "--count", "2")) == 2


def test_since_is_the_time_of_storage(nats_server: NatsServer, capsys: Captured) -> None:
    store(nats_server, *as_json(trades(2)))
    assert len(printed(nats_server, capsys, "--since", "1h")) == 2
    later = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() + 1))
    assert printed(nats_server, capsys, "--since", later) == []


def test_a_bad_message_is_named_and_passed(nats_server: NatsServer, capfd: Captured) -> None:
    store(nats_server, *as_json(trades(1)), (TRADES, b"{}"), *as_json(trades(1)))
    assert tail.main(["--nats", nats_server.url, "--no-follow"]) == ExitCode.BAD_DATA
    out, err = capfd.readouterr()
    assert len(out.splitlines()) == 2
    assert "ingestor-tail: message 2 on market.futures.trades" in err
    assert err.endswith("ingestor-tail: messages skipped: invalid 1\n")


@pytest.mark.parametrize(
    "flags",
    [
        ["--since", "soon"],
        ["--since", "2100-01-01"],
        ["--count", "0"],
        ["--since", "1h", "--new"],
        ["--what"],
        ["more"],
        ["--status", "--symbol", "SPY"],
        ["--status", "--subject", "market.>"],
    ],
)
def test_a_wrong_command_line_is_said(flags: list[str], capsys: Captured) -> None:
    try:
        exit_code = tail.main(flags)
    except SystemExit as ending:
        exit_code = int(ending.code or 0)
    assert exit_code == ExitCode.CONFIGURATION
    assert "ingestor-tail: " in capsys.readouterr().err


def test_a_missing_stream_and_server_have_exit_codes(
    nats_server: NatsServer, capsys: Captured
) -> None:
    assert tail.main(["--nats", nats_server.url]) == ExitCode.STREAM
    assert "stream not found" in capsys.readouterr().err
    nats_server.stop()
    assert tail.main(["--nats", nats_server.url]) == ExitCode.NATS_UNREACHABLE
    assert "no NATS server answers" in capsys.readouterr().err


def test_help_teaches_by_examples(capsys: Captured) -> None:
    with pytest.raises(SystemExit) as ending:
        tail.main(["--help"])
    assert ending.value.code == 0
    text = capsys.readouterr().out
    assert "examples:" in text
    for flag in ("--since", "--new", "--count", "--symbol", "--no-follow", "--json"):
        assert flag in text


def test_lines_come_at_once_and_ctrl_c_ends_it_quietly(nats_server: NatsServer) -> None:
    store(nats_server, *as_json(trades(2)))
    process = subprocess.Popen(
        command(nats_server), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for _ in range(2):
        assert "FuturesTrade" in process.stdout.readline()
    store(nats_server, *as_json(depth(1)))
    assert "MBP10" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (out, err) == ("", "")
    assert process.returncode == ExitCode.INTERRUPTED


def test_statuses_are_lines_too_the_last_of_each_feed_first(
    nats_server: NatsServer, capsys: Captured
) -> None:
    told = [status(1), status(2, "options"), status(3)]
    asyncio.run(tell(nats_server, *told))
    assert printed(nats_server, capsys, "--status") == list(map(line_of_status, told[1:]))
    assert printed(nats_server, capsys, "--status", "options") == [line_of_status(told[1])]
    since = printed(nats_server, capsys, "--status", "--since", "1h", "--json")
    assert since == [encode_status(one).decode() for one in told]
    assert printed(nats_server, capsys, "--status", "--new") == []
    assert printed(nats_server, capsys, "--status", "--stream", "OTHER") == []
    flags = ["--nats", nats_server.url, "--status", "--count", "2"]
    assert tail.main(flags) == ExitCode.OK


def test_a_status_is_printed_when_it_comes(nats_server: NatsServer) -> None:
    process = subprocess.Popen(
        command(nats_server, "--status"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for number in range(2):
        asyncio.run(tell(nats_server, status(number)))
        assert process.stdout.readline() == f"{line_of_status(status(number))}\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20) == ("", "")
    assert process.returncode == ExitCode.INTERRUPTED


def test_a_closed_pipe_ends_it_without_a_word(nats_server: NatsServer) -> None:
    store(nats_server, *packed(trades(1000)), *packed(trades(1000)), *packed(trades(1000)))
    process = subprocess.Popen(
        command(nats_server), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    deadline = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < deadline:
        store(nats_server, *packed(trades(1000)))
    assert process.wait(1) == ExitCode.OK
    assert process.stderr.read() == ""
    process.stderr.close()
