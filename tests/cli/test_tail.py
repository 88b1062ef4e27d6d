from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nats
import pytest

from ingestor.cli import tail
from ingestor.model.errors import ExitCode
from ingestor.model.feed_status import encode_status, line_of_status
from tests.cli.test_top import Watched
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
        ["--last", "5", "--new"],
        ["--last", "5", "--bars", "1m"],
        ["--bars", "7s"],
        ["--plot"],
        ["--plot", "--bars", "1m"],  # it follows, and this is no terminal
        ["--parquet", "x", "--json"],
        ["--give-up", "-1"],
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
    for flag in ("--since", "--new", "--count", "--symbol", "--no-follow", "--json", "--bars"):
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


def seqs_of(lines: list[str]) -> list[int]:
    return [json.loads(line)["seq"] for line in lines]


def test_the_last_events_come_first_and_then_what_is_new(nats_server: NatsServer) -> None:
    store(nats_server, *as_json(trades(25)), *packed(trades(5, first=25)))
    with following(nats_server, "--json") as process:
        assert seqs_of([read_line(process) for _ in range(20)]) == [*range(10, 30)]
        store(nats_server, *as_json(trades(2, first=30)))
        assert seqs_of([read_line(process) for _ in range(2)]) == [30, 31]


def test_the_last_of_a_symbol_are_found_far_behind_others(
    nats_server: NatsServer, capsys: Captured
) -> None:
    spy = [one for one in examples.CONTRACT if one.subject == "market.stocks.trades"]
    store(nats_server, *((one.subject, one.payload) for one in spy), *as_json(trades(300)))
    lines = printed(nats_server, capsys, "--symbol", "SPY", "--last", "2")
    assert [line.split()[1] for line in lines] == ["StockTrade"]
    subject = ("--subject", "market.stocks.trades", "--last", "1")
    assert printed(nats_server, capsys, *subject) == lines


def test_the_last_lie_inside_of_a_packed_message(nats_server: NatsServer, capsys: Captured) -> None:
    store(nats_server, *packed(trades(50)))
    assert seqs_of(printed(nats_server, capsys, "--json", "--last", "3")) == [47, 48, 49]


def test_what_is_not_there_is_said_with_what_is(nats_server: NatsServer, capsys: Captured) -> None:
    store(nats_server, *as_json(trades(3)), *as_json(depth(2)))
    flags = ["--nats", nats_server.url, "--no-follow", "--last", "5"]
    assert tail.main([*flags, "--symbol", "QQQ"]) == ExitCode.OK
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.endswith(
        "ingestor-tail: no event of QQQ among the last ones; there are ES.c.0\n"
    )
    assert tail.main([*flags, "--subject", "market.stocks.quotes"]) == ExitCode.OK
    assert capsys.readouterr().err.endswith(
        "no message on market.stocks.quotes in stream MARKET_DATA; there are"
        " market.futures.mbp10 (2), market.futures.trades (3)\n"
    )


def test_an_empty_stream_is_said_to_be_empty(nats_server: NatsServer, capsys: Captured) -> None:
    store(nats_server)
    assert tail.main(["--nats", nats_server.url, "--no-follow", "--last", "5"]) == ExitCode.OK
    assert capsys.readouterr().err.endswith("stream MARKET_DATA is empty\n")


def test_a_bad_message_among_the_last_counts_once(nats_server: NatsServer, capfd: Captured) -> None:
    store(nats_server, *as_json(trades(60)), (TRADES, b"{}"), *as_json(trades(3)))
    flags = ["--nats", nats_server.url, "--no-follow", "--symbol", "QQQ", "--last", "5"]
    assert tail.main(flags) == ExitCode.BAD_DATA
    assert capfd.readouterr().err.endswith("ingestor-tail: messages skipped: invalid 1\n")


def test_a_server_that_stays_away_ends_it_when_that_was_asked_for(
    nats_server: NatsServer,
) -> None:
    store(nats_server, *as_json(trades(1)))
    with following(nats_server, "--give-up", "1") as process:
        read_line(process)
        nats_server.kill()
        out, err = process.communicate(timeout=20)
    assert (out, process.returncode) == ("", ExitCode.NATS_UNREACHABLE)
    assert "connecting again, for 1 s at most" in err
    assert err.splitlines()[-1].endswith("stayed away for 1 s")


def test_a_server_that_comes_back_in_time_is_followed_again(nats_server: NatsServer) -> None:
    store(nats_server, *as_json(trades(1)))
    with following(nats_server, "--json", "--give-up", "15") as process:
        read_line(process)
        nats_server.restart()
        store(nats_server, *as_json(trades(1, first=1)))
        assert seqs_of([read_line(process)]) == [1]


def test_a_terminal_gets_a_header_columns_and_colours(nats_server: NatsServer) -> None:
    option, trade = (
        next((one.subject, one.payload) for one in examples.CONTRACT if one.subject == subject)
        for subject in ("market.options.trades", "market.futures.trades")
    )
    store(nats_server, option, trade)
    shown = on_a_terminal(command(nats_server, "--no-follow"))
    lines = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in shown.splitlines()]
    assert lines[0].split()[:4] == ["time", "(UTC)", "event", "symbol"]
    assert lines[1].index("1.23") + 4 == lines[2].index("6870.0") + 6
    assert "\x1b[32m" in shown.splitlines()[2]
    assert lines[0].index("event") == lines[1].index("OptionTrade") == 31
    plain = on_a_terminal(command(nats_server, "--no-follow"), NO_COLOR="1")
    assert "\x1b" not in plain


def test_bars_are_lines_below_a_header(nats_server: NatsServer, capsys: Captured) -> None:
    store(nats_server, *as_json(trades(3)))
    header, bar = printed(nats_server, capsys, "--bars", "1m")
    assert header.split()[:3] == ["time", "(UTC)", "symbol"]
    assert bar.split() == [
        *("2025-12-16", "14:30:00", "ES.c.0", "6870", "6870", "6870", "6870", "81", "3", "-")
    ]


def test_bars_are_drawn_as_candles(nats_server: NatsServer, capsys: Captured) -> None:
    store(nats_server, *as_json(trades(3)))
    lines = printed(nats_server, capsys, "--bars", "1m", "--plot")
    assert lines[0] == "ES.c.0  6870  1 bar"
    assert lines[-1] == "2025-12-16 14:30 to 2025-12-16 14:30 UTC"


def test_on_a_terminal_candles_follow_what_is_new(nats_server: NatsServer) -> None:
    store(nats_server, *as_json(trades(3)))
    words = ("--nats", nats_server.url, "--bars", "1m", "--plot")
    screen = Watched(*words, program="tail")
    screen.until("ES.c.0 +6870 +1 bar")
    screen.press("")
    store(nats_server, *as_json(trades(2, first=60_000_000)))
    screen.until("ES.c.0 +6870 +2 bars")
    os.kill(screen.pid, signal.SIGINT)
    assert screen.ended() == 130


def test_events_are_written_as_tables(
    nats_server: NatsServer, capsys: Captured, tmp_path: Path
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    store(nats_server, *as_json(trades(3)), *packed(trades(2, first=3)), *as_json(depth(4)))
    assert printed(nats_server, capsys, "--parquet", str(tmp_path / "all.parquet")) == []
    table = parquet.read_table(tmp_path / "all.futures.trades.parquet")
    assert table.column("sequence").to_pylist() == [0, 1, 2, 3, 4]
    assert parquet.read_table(tmp_path / "all.futures.mbp10.parquet").num_rows == 4
    one = str(tmp_path / "one.parquet")
    flags = ("--parquet", one, "--subject", TRADES)
    printed(nats_server, capsys, *flags)
    assert parquet.read_table(one).num_rows == 5
    assert tail.main(["--nats", nats_server.url, "--no-follow", *flags]) == ExitCode.CONFIGURATION
    assert "one.parquet cannot be made: File exists" in capsys.readouterr().err


def test_a_table_that_is_interrupted_is_whole(nats_server: NatsServer, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    store(nats_server, *as_json(trades(5)))
    path = tmp_path / "some.parquet"
    with following(nats_server, "--parquet", str(path), "--subject", TRADES) as process:
        assert process.stderr is not None
        # Written when it ends: a consumer that has read all asks for more.
        await_consumer(nats_server)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == ExitCode.INTERRUPTED
    assert err == f"5 rows in {path}\n"
    assert parquet.read_table(path).num_rows == 5


@contextmanager
def following(server: NatsServer, *flags: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command(server, *flags), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=20)


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def on_a_terminal(words: list[str], **environment: str) -> str:
    ours, theirs = pty.openpty()
    clean = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    process = subprocess.Popen(
        words, stdout=theirs, env=clean | {"TERM": "xterm-256color"} | environment
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # a terminal whose other side has ended
        while piece := os.read(ours, 65_536):
            shown += piece
    os.close(ours)
    assert process.wait(20) == ExitCode.OK
    return shown.decode()


def await_consumer(server: NatsServer) -> None:
    """Wait until a consumer has been sent all that the stream holds."""

    async def work() -> None:
        async with await nats.connect(server.url) as client:
            stream = client.jetstream()
            while True:
                found = await stream.consumers_info("MARKET_DATA")
                delivered = found[0].delivered if found else None
                if delivered is not None and delivered.stream_seq == 5:
                    return
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(work(), 20))
