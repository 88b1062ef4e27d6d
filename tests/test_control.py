"""A replay that is steered while it runs: by the command, over NATS, from the terminal."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import nats
import numpy as np
import pytest
from nats.aio.msg import Msg
from nats.errors import NoRespondersError

from ingestor.encode.packed import decode_packed
from ingestor.model.errors import ExitCode, JobExistsError
from ingestor.model.records import Records
from ingestor.model.units import iso_utc, new_york_ns
from tests.conftest import StartNatsServer
from tests.dbn_files import DAY, dbn_path, depth, trades, write_dbn, write_small_day
from tests.journal.tapes import live_messages, option_frames, record, stock_frames
from tests.nats_servers import NatsServer
from tests.processes import ended, named
from tests.replay_cli import Stored, finish, read_stream, replay, start
from tests.test_replay_journal import merged, of_files

DAY_NS = 1_704_153_600 * 10**9
PATIENCE_S = 20.0
ROWS = 1_200


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Half a minute of trades, ten a second, and of depth, thirty a second."""
    return write_small_day(tmp_path / "data")


class Steered:
    """A replay that runs, asked as any NATS client may ask it, and by ``ingestor ctl``."""

    def __init__(self, data: Path, server: NatsServer, *more: str) -> None:
        self.url = server.url
        self._subjects: dict[str, str] = {}
        arguments = ["--data-dir", str(data), "--nats", server.url, "--summary", "json", *more]
        self.process = start(*arguments, cwd=data.parent)
        self._await(self._found)

    def ctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        return ctl(self.url, *words)

    def do(self, command: str, value: str = "") -> dict[str, Any]:
        """Have a command done, a step to its end; return the answer."""
        answer = request(self.url, self._subjects[command], value.encode())
        while answer["state"]["stepping"]:
            answer = request(self.url, self._subjects["status"])
        return answer

    def stored(self, count: int) -> list[Stored]:
        """Return the stream once it holds so many messages, and see that it holds no more."""
        self._await(lambda: messages(self.url) >= count)
        found = read_stream(self.url)
        assert len(found) == count
        return found

    def end(self) -> dict[str, Any]:
        """Have all the rest published; return the summary."""
        self.do("pause")
        self.do("speed", "max")
        self.do("resume")
        finished = finish(self.process)
        assert finished.exit_code == ExitCode.OK, finished.err
        return finished.summary

    def _found(self) -> bool:
        try:
            info = request(self.url, "$SRV.INFO.ingestor-replay")
        except (NoRespondersError, nats.errors.TimeoutError):
            return False
        self._subjects = {one["name"]: one["subject"] for one in info["endpoints"]}
        return "stop" in self._subjects and "status" in self._subjects

    def _await(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)


def request(url: str, subject: str, payload: bytes = b"") -> dict[str, Any]:
    async def ask() -> Msg:
        client = await nats.connect(url)
        try:
            return await client.request(subject, payload, timeout=5)
        finally:
            await client.close()

    message = asyncio.run(ask())
    if message.headers:
        raise LookupError(message.headers["Nats-Service-Error"])
    answer: dict[str, Any] = json.loads(message.data)
    return answer


@pytest.fixture
def steered(data: Path, nats_server: NatsServer) -> Iterator[Steered]:
    run = Steered(data, nats_server, "--paused")
    yield run
    if run.process.poll() is None:
        run.process.terminate()
        run.process.communicate(timeout=PATIENCE_S)


def ctl(url: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ingestor", "ctl", "--nats", url, *words],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def messages(url: str) -> int:
    async def ask() -> int:
        client = await nats.connect(url)
        try:
            return (await client.jetstream().stream_info("MARKET_DATA")).state.messages
        except nats.js.errors.NotFoundError:
            return 0
        finally:
            await client.close()

    return asyncio.run(ask())


def statuses(url: str) -> list[dict[str, Any]]:
    return [json.loads(one.data) for one in read_stream(url, "INGESTOR_STATUS")]


def whole() -> list[tuple[str, bytes]]:
    """What a replay publishes that nobody steers."""
    records = {
        "trades": trades(300, step_ns=10**8),
        "mbp10": depth(900, step_ns=10**8 // 3),
    }
    return merged({feed: of_files(rows) for feed, rows in records.items()})


def payloads(stored: Sequence[Stored]) -> list[tuple[str, bytes]]:
    return [(one.subject, one.data) for one in stored]


def test_steps_a_bound_and_a_pause_publish_what_they_say_and_all_of_it_is_the_whole_replay(
    steered: Steered,
) -> None:
    expected = whole()
    assert steered.do("status")["state"] == {
        "paused": True, "stepping": False, "speed": 0.0, "until_ns": None,
        "position_ns": None, "generation": 0, "seeking_ns": None, "loop_ns": None,
    }  # fmt: skip
    assert steered.do("step", "7")["state"]["paused"]
    assert payloads(steered.stored(7)) == expected[:7]
    until = "+5s"
    steered.do("until", until)
    position = steered.do("status")["state"]["position_ns"]
    steered.do("resume")
    inside = sum(json.loads(data)["ts_event_ns"] < position + 5 * 10**9 for _, data in expected)
    assert payloads(steered.stored(inside)) == expected[:inside]
    state = steered.do("status")["state"]
    assert (state["paused"], state["until_ns"]) == (True, None)
    steered.do("step", "1s")
    stepped = steered.do("status")["state"]
    assert state["position_ns"] < stepped["position_ns"] < state["position_ns"] + 10**9
    assert steered.end()["published"] == ROWS
    assert payloads(read_stream(steered.url)) == expected


def since(events: Sequence[tuple[str, bytes]], at_ns: int) -> list[tuple[str, bytes]]:
    """What a run publishes that begins at a time: all events at or after it."""
    return [one for one in events if json.loads(one[1])["ts_event_ns"] >= at_ns]


def test_after_a_seek_back_or_forth_comes_what_a_run_from_there_publishes(
    data: Path, steered: Steered
) -> None:
    expected = whole()
    steered.do("step", "7")
    steered.do("seek", "2024-01-02T00:00:20.05Z")
    steered.do("step", "5")
    forth = expected[:7] + since(expected, DAY_NS + 20_050_000_000)[:5]
    assert payloads(steered.stored(12)) == forth
    # Back over all that the feeds have read, which have come to their ends.
    steered.do("seek", "-15s")
    position_ns = json.loads(forth[-1][1])["ts_event_ns"] - 15 * 10**9
    assert steered.do("status")["state"]["position_ns"] == position_ns
    steered.end()
    assert payloads(read_stream(steered.url)) == forth + since(expected, position_ns)
    told = statuses(steered.url)
    assert [one["generation"] for one in told] == [*range(1, len(told) + 1)]
    assert told[1]["to_event_ns"] == DAY_NS + 20_050_000_000
    again = replay("--data-dir", str(data), "--nats", steered.url, cwd=data.parent)
    assert again.exit_code == JobExistsError.exit_code
    assert "was sought in" in again.err


def packed_rows(url: str, subject: str) -> Records:
    found = [one.data for one in read_stream(url) if one.subject == subject]
    return np.concatenate([decode_packed(data).records for data in found])


@pytest.mark.slow
def test_packed_rows_after_a_seek_are_those_of_a_run_from_there(
    data: Path, nats_server: NatsServer, start_nats_server: StartNatsServer
) -> None:
    fresh = start_nats_server()
    packed = ("--encoding", "packed")
    replay("--data-dir", str(data), "--nats", fresh.url, *packed, cwd=data.parent)
    run = Steered(data, nats_server, "--paused", *packed)
    run.do("seek", "2024-01-02T00:00:20Z")
    run.end()
    for subject in ("market.futures.trades", "market.futures.mbp10"):
        rows = packed_rows(fresh.url, subject)
        expected = rows[rows["ts_event_ns"] >= DAY_NS + 20 * 10**9]
        assert packed_rows(run.url, subject).tobytes() == expected.tobytes()
        assert len(expected)


def test_a_loop_goes_round_and_a_publisher_or_a_feed_that_dies_in_it_changes_nothing(
    steered: Steered,
) -> None:
    expected = whole()
    ten = since(expected, DAY_NS + 10 * 10**9)
    ten = ten[: len(ten) - len(since(expected, DAY_NS + 11 * 10**9))]
    steered.do("loop", "2024-01-02T00:00:10Z 2024-01-02T00:00:11Z")
    steered.do("step", "3")
    named(steered.process.pid, "trades").kill()
    named(steered.process.pid, "publisher").kill()
    steered.stored(3)
    steered.do("speed", "10")
    steered.do("resume")
    steered._await(lambda: messages(steered.url) > 2 * len(ten))
    steered.do("pause")
    steered.do("loop", "off")
    steered.end()
    found = payloads(read_stream(steered.url))
    # The last one plays on behind its end.
    rounds = next(n for n in range(1, 99) if found[: n * len(ten)] != ten * n) - 2
    assert rounds >= 2
    assert found[rounds * len(ten) :] == since(expected, DAY_NS + 10 * 10**9)


def test_a_share_of_a_replay_is_of_all_of_it_whatever_was_sought_before(steered: Steered) -> None:
    expected = whole()
    times_ns = [json.loads(data)["ts_event_ns"] for _, data in expected]
    # Files of half a minute are read to their end at once.
    steered._await(lambda: "about" not in steered.do("seek", "90%")["text"])
    answer = steered.do("seek", "50%")
    half_ns = times_ns[0] + round((max(times_ns) - times_ns[0]) / 2)
    assert answer["state"]["position_ns"] == half_ns
    assert answer["text"].startswith(f"seeks to 50%, {iso_utc(half_ns)}, from ")
    told = steered.ctl("seek", "0%")
    assert told.stdout.startswith(f"seeks to 0%, {iso_utc(times_ns[0])}")
    steered.end()
    assert payloads(read_stream(steered.url)) == expected


def test_a_run_that_is_killed_right_after_a_seek_is_none_to_go_on_behind(steered: Steered) -> None:
    steered.do("step", "7")
    steered.stored(7)
    steered.do("seek", "2024-01-02T00:00:20Z")
    steered.do("step", "1")
    steered._await(lambda: messages(steered.url) == 8)
    steered.process.kill()
    steered.process.communicate()
    [record] = [json.loads(one.data) for one in read_stream(steered.url, "KV_INGESTOR_RUNS")]
    assert record["sought"]


def write_morning(folder: Path) -> None:
    """Write half a minute of trades and depth, in whose middle it is 10:00 in New York."""
    start_ns = new_york_ns(DAY, dt.time(9, 59, 45))
    for schema, count, make in (("trades", 300, trades), ("mbp-10", 900, depth)):
        records = make(count, start_ns=start_ns, step_ns=30 * 10**9 // count)
        # Some step back in time: they are left out where their own time lies before.
        records["ts_event_ns"][count // 2 :: 7] -= 3 * 10**9
        write_dbn(dbn_path(folder, schema), records, schema=schema)


@pytest.mark.slow
def test_after_a_seek_comes_byte_for_byte_what_a_run_with_that_start_publishes(
    tmp_path: Path, nats_server: NatsServer, start_nats_server: StartNatsServer
) -> None:
    data, fresh = tmp_path / "data", start_nats_server()
    write_morning(data)
    ran = replay(
        "--data-dir", str(data), "--nats", fresh.url, "--start", "10:00", cwd=tmp_path
    )  # fmt: skip
    assert ran.exit_code == ExitCode.OK
    run = Steered(data, nats_server, "--paused")
    run.do("step", "3")
    run.do("seek", iso_utc(new_york_ns(DAY, dt.time(10, 0))))
    run.end()
    expected = payloads(read_stream(fresh.url))
    assert payloads(read_stream(run.url))[3:] == expected
    assert 300 < len(expected) < 600


def test_after_a_seek_within_a_journal_comes_what_was_published_live_from_there(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    start_ns = new_york_ns(DAY, dt.time(10, 0))
    stocks, options = stock_frames(300, start_ns=start_ns), option_frames(300, start_ns=start_ns)
    record(tmp_path / "journal", "stocks", stocks)
    record(tmp_path / "journal", "options", options, roots=("SPY", "QQQ"))
    expected = merged(
        {
            "stocks": live_messages("stocks", [stocks]),
            "options": live_messages("options", [options]),
        }
    )
    times_ns = [json.loads(data)["ts_event_ns"] for _, data in expected]
    journal = str(tmp_path / "journal")
    run = Steered(tmp_path / "data", nats_server, "--journal", journal, "--paused")
    run.do("step", "5")
    for row in (len(expected) // 2, len(expected) // 3):
        run.do("seek", iso_utc(times_ns[row]))
        run.do("step", "4")
    run.end()
    found = payloads(read_stream(run.url))
    half = since(expected, times_ns[len(expected) // 2])[:4]
    assert found == expected[:5] + half + since(expected, times_ns[len(expected) // 3])


def test_each_change_is_a_status_with_its_generation_and_place(steered: Steered) -> None:
    steered.do("step", "1")
    answer = steered.do("speed", "2")
    steered.end()
    told = statuses(steered.url)
    assert [one["generation"] for one in told] == [1, 2, 3, 4]
    assert {(one["feed"], one["what"]) for one in told} == {("replay", "control")}
    assert told[0]["from_event_ns"] is None
    assert told[1]["from_event_ns"] == answer["state"]["position_ns"]
    assert told[1]["text"] == "x2 from here on, at 2024-01-02T00:00:00.000000000Z"


def test_who_asks_while_it_ends_is_answered_or_told_that_nobody_listens(steered: Steered) -> None:
    steered.do("resume")
    with pytest.raises((NoRespondersError, LookupError)):
        [steered.do("status") for _ in range(100_000)]
    assert finish(steered.process).exit_code == ExitCode.OK


def test_a_pace_is_kept_after_each_change(data: Path, nats_server: NatsServer) -> None:
    run = Steered(data, nats_server, "--paused", "--speed", "1", "--feeds", "trades")
    run.do("resume")
    time.sleep(1.0)
    run.do("speed", "5")
    time.sleep(1.0)
    run.do("pause")
    time.sleep(0.5)
    run.do("resume")
    time.sleep(1.0)
    run.end()
    found = [one for one in read_stream(run.url) if one.subject == "market.futures.trades"]
    at_ns = {one["generation"]: one["at_ns"] for one in statuses(run.url)}
    # Ten trades a second at x1, fifty at x5: their distances in the stream are those of the speed.
    gaps_ns: dict[float, list[int]] = {1.0: [], 5.0: []}
    for before, after in pairwise(found):
        if at_ns[1] < before.stored_ns and after.stored_ns < at_ns[2]:
            gaps_ns[1.0].append(after.stored_ns - before.stored_ns)
        if at_ns[2] < before.stored_ns and after.stored_ns < at_ns[3]:
            gaps_ns[5.0].append(after.stored_ns - before.stored_ns)
        if at_ns[3] + 5 * 10**7 < after.stored_ns < at_ns[4]:
            pytest.fail("stored while it was paused")
    for told, gaps in gaps_ns.items():
        assert len(gaps) >= 5
        assert sum(gaps) / len(gaps) == pytest.approx(10**8 / told, rel=0.1)


@pytest.mark.slow
def test_a_long_pause_loses_nothing_and_repeats_nothing(
    data: Path, start_nats_server: StartNatsServer, nats_server: NatsServer
) -> None:
    """Longer than the server keeps a batch to which nothing is added."""
    expected = whole()
    run = Steered(data, nats_server, "--paused", "--speed", "100")
    run.do("step", "400")
    assert payloads(run.stored(400)) == expected[:400]
    time.sleep(11)
    run.end()
    assert payloads(read_stream(run.url)) == expected


def test_nats_micro_finds_it_and_sees_who_it_is_and_what_was_asked(steered: Steered) -> None:
    async def ask() -> tuple[Any, Any, Any, Any]:
        client = await nats.connect(steered.url)
        try:
            asked = [
                json.loads((await client.request(f"$SRV.{verb}", timeout=5)).data)
                for verb in ("PING", "INFO", "STATS.ingestor-replay")
            ]
            subject = {one["name"]: one["subject"] for one in asked[1]["endpoints"]}
            bad = await client.request(subject["speed"], b"fast", timeout=5)
            return *asked, bad
        finally:
            await client.close()

    steered.do("status")
    ping, info, stats, bad = asyncio.run(ask())
    assert (ping["type"], ping["name"]) == ("io.nats.micro.v1.ping_response", "ingestor-replay")
    assert (info["type"], info["id"]) == ("io.nats.micro.v1.info_response", ping["id"])
    assert info["metadata"]["stream"] == "MARKET_DATA"
    assert info["metadata"]["pid"] == str(steered.process.pid)
    assert all(type(value) is str for value in info["metadata"].values())
    assert stats["type"] == "io.nats.micro.v1.stats_response"
    counts = {one["name"]: one["num_requests"] for one in stats["endpoints"]}
    assert (counts["status"], counts["pause"]) == (1, 0)
    assert stats["endpoints"][0]["data"]["paused"] is True
    assert bad.headers["Nats-Service-Error-Code"] == "400"
    assert "speed 'fast'" in bad.headers["Nats-Service-Error"]


def test_the_command_tells_what_it_did_and_what_is_wrong(steered: Steered) -> None:
    told = steered.ctl("speed", "10")
    assert told.stdout == "x10 from here on, before the first event\n"
    assert steered.ctl("status").stdout.startswith("paused, before the first event, x10 (gener")
    for words, code, sentence in (
        (("speed", "fast"), 2, "speed 'fast'"),
        (("until", "15:30"), 2, "write the date too"),
        (("--run", "nobody", "pause"), 3, "there is no replay nobody at"),
    ):
        wrong = steered.ctl(*words)
        assert (wrong.returncode, wrong.stdout) == (code, "")
        assert sentence in wrong.stderr
    (line,) = steered.ctl("list").stdout.splitlines()
    assert re.fullmatch(r"\S+  stream MARKET_DATA, host \S+, pid \d+", line)


def test_where_nothing_runs_that_is_said(nats_server: NatsServer) -> None:
    told = ctl(nats_server.url, "pause")
    assert (told.returncode, told.stdout) == (ExitCode.NO_DATA, "")
    assert "no replay that can be steered is running at 127.0.0.1" in told.stderr
    assert ctl(nats_server.url, "list").stdout == "no replay is running here\n"


def test_of_several_replays_one_is_to_be_named(
    data: Path, steered: Steered, nats_server: NatsServer
) -> None:
    more = ("--paused", "--no-lease", "--existing", "again")
    arguments = ["--data-dir", str(data), "--nats", nats_server.url, *more]
    other = start(*arguments, cwd=data.parent)
    deadline = time.monotonic() + PATIENCE_S
    while len(lines := steered.ctl("list").stdout.splitlines()) < 2:
        assert time.monotonic() < deadline
    both = steered.ctl("pause")
    assert both.returncode == ExitCode.CONFIGURATION
    assert all(line in both.stderr for line in lines)
    (mine,) = (line.split()[0] for line in lines if line.endswith(f"pid {other.pid}"))
    assert steered.ctl("--run", mine, "stop").stdout == "stopping in order\n"
    assert finish(other).exit_code == ExitCode.TERMINATED
    assert steered.ctl("status").returncode == 0


def test_a_stop_ends_it_in_order_and_started_again_it_goes_on_there(
    data: Path, steered: Steered
) -> None:
    steered.do("step", "100")
    steered.ctl("stop")
    finished = finish(steered.process)
    assert finished.exit_code == ExitCode.TERMINATED
    assert finished.summary["published"] == 100
    again = replay(
        "--data-dir", str(data), "--nats", steered.url, "--summary", "json", cwd=data.parent
    )
    assert again.summary["published"] == ROWS - 100


def test_a_service_that_is_killed_comes_back_and_the_replay_does_not_notice(
    steered: Steered,
) -> None:
    steered.do("step", "3")
    named(steered.process.pid, "control").kill()
    deadline = time.monotonic() + PATIENCE_S
    while (told := steered.ctl("--json", "status")).returncode:
        assert time.monotonic() < deadline
    # The one that is killed says nothing; the next one says what the publisher shows.
    assert json.loads(told.stdout)["state"]["generation"] == 1
    assert steered.end()["published"] == ROWS


def test_without_permission_for_a_service_the_replay_runs_all_the_same(
    data: Path, start_nats_server: StartNatsServer
) -> None:
    allowed = (
        'authorization { users: [{user: u, password: p, permissions: {subscribe: "_INBOX.>"}}] }'
    )
    server = start_nats_server(extra_config=allowed)
    url = server.url.replace("//", "//u:p@")
    finished = replay("--data-dir", str(data), "--nats", url, "--summary", "json", cwd=data.parent)
    assert (finished.exit_code, finished.summary["published"]) == (ExitCode.OK, ROWS)


def test_a_replay_that_offers_no_service_cannot_be_found(
    data: Path, nats_server: NatsServer
) -> None:
    arguments = ["--data-dir", str(data), "--nats", nats_server.url, "--speed", "1"]
    process = start(*arguments, "--no-control", cwd=data.parent)
    deadline = time.monotonic() + PATIENCE_S
    while not messages(nats_server.url):
        assert time.monotonic() < deadline
    assert ctl(nats_server.url, "list").stdout == "no replay is running here\n"
    # Nobody can send it back into its files, so a feed that has read them has ended.
    feeds = [named(process.pid, name) for name in ("trades", "mbp10")]
    assert all(map(ended, feeds))
    process.terminate()
    assert finish(process).exit_code == ExitCode.TERMINATED


def test_keys_of_the_terminal_pause_step_and_change_the_speed(
    data: Path, nats_server: NatsServer
) -> None:
    arguments = ["--data-dir", str(data), "--nats", nats_server.url, "--paused", "--speed", "1"]
    program = [sys.executable, "-m", "ingestor", "replay", *arguments]
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(data.parent)
        os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
        os.execv(program[0], program)
    shown = b""

    def until(pattern: str) -> None:
        nonlocal shown
        while not re.search(pattern, shown.decode(errors="replace")):
            shown += os.read(terminal, 65_536)

    def state() -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(ctl(nats_server.url, "--json", "status").stdout)
        return {**answer["state"]}

    until("keys: space pauses and resumes")
    until("paused")
    os.write(terminal, b"\x1b[C\x1b[C\x1b[A\x1b[A")
    until("x4")
    told = state()
    assert (told["paused"], told["speed"], told["generation"]) == (True, 4.0, 4)
    assert messages(nats_server.url) == 2
    os.write(terminal, b"?")
    until("(?s)keys: .*keys: ")
    os.write(terminal, b"5")
    until("seeks to (about )?50%")
    os.write(terminal, b" ")
    until("resumed")
    os.write(terminal, b"\x03")
    ended = os.waitpid(pid, 0)[1]
    os.close(terminal)
    assert os.waitstatus_to_exitcode(ended) == ExitCode.INTERRUPTED
