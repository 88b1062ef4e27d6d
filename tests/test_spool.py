"""A whole run is killed with what nobody has stored: the next one publishes it from the journal.

`ingestor verify` compares stream and journal, event by event. The server is killed before the run
is, so that the journal holds more than the stream, and surely all of it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from ingestor.feeds.polygon.journal_feed import JournalFeed
from ingestor.journal.format import Market
from ingestor.model.feed_status import STATUS_STREAM, FeedStatus, What, decode_status
from ingestor.sim.polygon.simulator_process import SimulatorProcess
from tests.faults.account import Account, Verdict
from tests.live_cli import feeds_of, simulator, start, stored, subscriptions, until
from tests.nats_servers import NatsServer
from tests.replay_cli import Finished, each_message, finish, read_stream

RATES = ("--rate", "5000", "--options-rate", "500")
UNSTORED_BYTES = 500_000
"""Some 5,000 events."""


def begun(
    vendor: SimulatorProcess,
    server: NatsServer,
    cwd: Path,
    encoding: str = "json",
    settings: str = "",
) -> subprocess.Popen[str]:
    """Start a live run that records; return when both feeds are subscribed."""
    (config := cwd / "live.toml").write_text(f'{settings}[publish]\nencoding = "{encoding}"\n')
    process = start(
        *("--nats", server.url, "--config", str(config), "--summary", "json"),
        *("--record", str(cwd / "journal")),
        cwd=cwd,
        env=feeds_of(vendor),
    )
    until(lambda: bool(subscriptions(vendor, "options")), "options subscribed")
    return process


def more_stored(server: NatsServer, than: int) -> bool:
    return stored(server.url) > than


def recorded(cwd: Path) -> int:
    """Bytes of the journal's plain segments, in which this run writes."""
    return sum(one.stat().st_size for one in cwd.glob("journal/stocks-*.journal"))


def more_recorded(cwd: Path, than: int) -> bool:
    return recorded(cwd) > than


def kill_all(process: subprocess.Popen[str]) -> None:
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for one in family:
        one.kill()
    psutil.wait_procs(family[1:], timeout=10)
    process.communicate()


def kill_with_unstored(process: subprocess.Popen[str], server: NatsServer, cwd: Path) -> None:
    """Kill all processes of a run once its journal holds more than its server has taken."""
    before = stored(server.url)
    until(partial(more_stored, server, before + 100), "events stored")
    # Not paused: what it has in its sockets it would store when it goes on.
    server.kill()
    held = recorded(cwd)
    until(lambda: recorded(cwd) > held + UNSTORED_BYTES, "events recorded that are not stored")
    kill_all(process)
    server.start()


def stop_later(process: subprocess.Popen[str], server: NatsServer, cwd: Path) -> Finished:
    """Stop a run in order, some thousand events after it has begun."""
    before, held = stored(server.url), recorded(cwd)
    until(partial(more_stored, server, before + 100), "events are stored")
    until(lambda: recorded(cwd) > held + UNSTORED_BYTES, "the run goes on")
    process.send_signal(signal.SIGTERM)
    return finish(process)


def verdict(server: NatsServer, cwd: Path) -> dict[str, Any]:
    """What ``ingestor verify`` counts."""
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "ingestor", "verify", "--nats", server.url),
            *("--journal", str(cwd / "journal"), "--summary", "json"),
        ],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return dict(json.loads(finished.stdout)["counts"])


def gaps(server: NatsServer, feed: str) -> list[FeedStatus]:
    told = [decode_status(one.data) for one in read_stream(server.url, STATUS_STREAM)]
    return [one for one in told if one.what is What.GAP and one.feed == feed]


def receipts(cwd: Path, market: Market) -> list[int]:
    blocks = JournalFeed(directory=cwd / "journal", market=market).blocks()
    return [at for block in blocks for at in block.records["ts_recv_ns"].tolist()]


def check_equal(server: NatsServer, cwd: Path) -> None:
    counts = verdict(server, cwd)
    assert counts.pop("equal") > 5_000
    assert counts == dict.fromkeys(counts, 0)


@pytest.mark.parametrize("encoding", ["json", pytest.param("packed", marks=pytest.mark.slow)])
def test_what_a_killed_run_had_received_and_not_stored_is_published_by_the_next(
    nats_server: NatsServer, tmp_path: Path, encoding: str
) -> None:
    with simulator(*RATES) as vendor:
        kill_with_unstored(begun(vendor, nats_server, tmp_path, encoding), nats_server, tmp_path)
        finished = stop_later(begun(vendor, nats_server, tmp_path, encoding), nats_server, tmp_path)
    assert finished.exit_code == 143, finished.err
    told = [line for line in finished.err.splitlines() if "published from the journal" in line]
    print(*told, sep="\n")
    assert len(told) == 2
    check_equal(nats_server, tmp_path)
    for market in Market:
        (gap,) = gaps(nats_server, market.feed_name)
        bounds = gap.from_recv_ns, gap.to_recv_ns
        assert bounds in list(pairwise(receipts(tmp_path, market)))


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_leaves_the_stream_as_the_journal_says(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    kills = 3
    with simulator(*RATES) as vendor:
        for _ in range(kills):
            kill_with_unstored(begun(vendor, nats_server, tmp_path), nats_server, tmp_path)
        finished = stop_later(begun(vendor, nats_server, tmp_path), nats_server, tmp_path)
    assert finished.exit_code == 143, finished.err
    check_equal(nats_server, tmp_path)


def test_of_a_run_that_is_killed_beside_its_server_nothing_that_is_recorded_is_missing(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    """Frames are written before their events are handed on."""
    with simulator(*RATES) as vendor:
        process = begun(vendor, nats_server, tmp_path)
        until(partial(more_stored, nats_server, 5_000), "events stored")
        kill_all(process)
        finished = stop_later(begun(vendor, nats_server, tmp_path), nats_server, tmp_path)
    assert finished.exit_code == 143, finished.err
    counts = verdict(nats_server, tmp_path)
    print(f"killed beside its server: {counts}")
    assert counts["equal"] > 5_000
    assert {counts[name] for name in ("missing", "repeated", "changed", "wrong_order")} == {0}
    # None, but for a machine so busy that the thread which writes waits for a CPU.
    assert counts["extra"] < 1_000


# A server that stays away for longer than a feed can hold in memory


SMALL = "[process]\nring_bytes = 1048576\n[polygon]\nbacklog_rows = 1024\n"
"""Some 13,000 events of stocks fit into the ring, and 1,024 behind it."""


class Grown:
    """Whether a stream has grown within the last two seconds."""

    def __init__(self, server: NatsServer) -> None:
        self._server = server
        self._seen = -1
        self._since_s = 0.0

    def lately(self) -> bool:
        if (now := stored(self._server.url)) != self._seen:
            self._seen, self._since_s = now, time.monotonic()
        return time.monotonic() - self._since_s < 2


def away_for(
    away_s: float, rates: tuple[str, ...], server: NatsServer, cwd: Path, *, recorded: bool
) -> tuple[dict[str, Verdict], Finished, list[FeedStatus]]:
    """A live run whose server is away for a time; return what became of every event."""
    (config := cwd / "live.toml").write_text(SMALL)
    log, record = cwd / "vendor.log", ("--record", str(cwd / "journal")) if recorded else ()
    with simulator(*rates, "--log", str(log)) as vendor:
        process = start(
            *("--nats", server.url, "--config", str(config), "--summary", "json", *record),
            cwd=cwd,
            env=feeds_of(vendor),
        )
        until(lambda: bool(subscriptions(vendor, "options")), "options subscribed")
        until(partial(more_stored, server, 100), "events stored")
        before = stored(server.url)
        server.kill()
        time.sleep(away_s)
        server.start()
        until(partial(more_stored, server, before), "events stored again")
        # What is new joins what is old meanwhile.
        time.sleep(2)
        for market in ("stocks", "options"):
            vendor.control("rate", events_per_s=0, market=market)
        grown = Grown(server)
        until(lambda: not grown.lately(), "all stored", 30 + 2 * away_s)
        process.send_signal(signal.SIGTERM)
        finished = finish(process)
    told = [one.data for one in read_stream(server.url, STATUS_STREAM)]
    account = Account()
    account.take_log(log)
    if recorded:
        account.take_journal(cwd / "journal")
    each_message(server.url, "MARKET_DATA", lambda one: account.take_message(one.subject, one.data))
    for status in told:
        account.take_status(status)
    return account.verdicts(), finished, [decode_status(one) for one in told]


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("away_s", "rate"), [(5, 5_000), (75, 2_000)])
@pytest.mark.parametrize("recorded", [True, False], ids=["journal", "no journal"])
def test_a_server_that_is_away_costs_nothing_where_there_is_a_journal_and_nothing_untold_elsewhere(
    nats_server: NatsServer, tmp_path: Path, recorded: bool, away_s: float, rate: int
) -> None:
    rates = ("--rate", str(rate), "--options-rate", "200")
    found, finished, told = away_for(away_s, rates, nats_server, tmp_path, recorded=recorded)
    print(*(f"{name}: {verdict}" for name, verdict in found.items()), sep="\n")
    print(*(f"{one.feed}: {one.what}: {one.text}" for one in told), sep="\n")
    assert finished.exit_code == 143, finished.err
    assert {one.broken for one in found.values()} == {0}
    assert any(one.what is (What.SPOOL if recorded else What.OVERFLOW) for one in told)
    if recorded:
        assert {one.missing for one in found.values()} == {0}


def pids_of(run: subprocess.Popen[str], name: str) -> set[int]:
    """The processes of a run that `ps` calls so."""
    found = set()
    for one in psutil.Process(run.pid).children():
        with suppress(psutil.NoSuchProcess):
            if one.name() == name and one.status() != psutil.STATUS_ZOMBIE:
                found.add(one.pid)
    return found


def kill_one(run: subprocess.Popen[str], name: str) -> None:
    """Kill a process of a run; return when another one is in its place."""
    (pid,) = pids_of(run, name)
    os.kill(pid, signal.SIGKILL)
    until(lambda: bool(pids_of(run, name) - {pid}), f"another process {name}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "killed",
    [["stocks"], ["stocks", "publisher"], ["publisher", "stocks", "stocks"]],
    ids=" ".join,
)
@pytest.mark.parametrize("encoding", ["json", "packed"])
def test_feeds_and_publishers_that_are_killed_while_a_journal_is_read_back_leave_nothing_out(
    nats_server: NatsServer, tmp_path: Path, encoding: str, killed: list[str]
) -> None:
    """Each is killed once while the server is away and once while it has come back."""
    with simulator(*RATES) as vendor:
        process = begun(vendor, nats_server, tmp_path, encoding, SMALL)
        until(partial(more_stored, nats_server, 100), "events stored")
        for is_away in (True, False):
            nats_server.kill()
            held = recorded(tmp_path)
            until(
                partial(more_recorded, tmp_path, held + 4 * UNSTORED_BYTES), "the backlog is full"
            )
            if not is_away:
                nats_server.start()
            for name in killed:
                kill_one(process, name)
            held = recorded(tmp_path)
            until(partial(more_recorded, tmp_path, held + UNSTORED_BYTES), "the feed is back")
            if is_away:
                nats_server.start()
            before = stored(nats_server.url)
            until(partial(more_stored, nats_server, before), "events stored again")
        for market in ("stocks", "options"):
            vendor.control("rate", events_per_s=0, market=market)
        until(lambda: not verdict(nats_server, tmp_path)["missing"], "all stored", 60)
        process.send_signal(signal.SIGTERM)
        finished = finish(process)
    assert finished.exit_code == 143, finished.err
    check_equal(nats_server, tmp_path)
    for each in Market:
        bounds = [(gap.from_recv_ns, gap.to_recv_ns) for gap in gaps(nats_server, each.feed_name)]
        # One that is killed before it has received anything makes no gap of its own.
        deaths = killed.count("stocks") if each is Market.STOCKS else 0
        assert 2 * bool(deaths) <= len(bounds) <= 2 * deaths
        assert set(bounds) <= {*pairwise(receipts(tmp_path, each))}


SMALL_DISK = """
mount -t tmpfs -o size=6m none "$0" && head -c 4500000 /dev/zero > "$0/ballast" && exec "$@"
"""


@pytest.mark.slow
def test_a_full_disk_stops_the_recording_which_goes_on_when_there_is_room(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    """The journal lies on a file system of 6 MB, which the run alone sees."""
    (disk := tmp_path / "disk").mkdir()
    by = ("unshare", "-m", "sh", "-c", SMALL_DISK, str(disk))
    if subprocess.run([*by, "true"], check=False, capture_output=True).returncode:
        pytest.skip("nobody may mount a file system here")
    with simulator("--rate", "5000", "--options-rate", "500") as vendor:
        process = start(
            *("--nats", nats_server.url, "--record", str(disk), "--summary", "json"),
            cwd=tmp_path,
            env=feeds_of(vendor),
            by=by,
        )
        seen = Path(f"/proc/{process.pid}/root{disk}")
        until(partial(more_stored, nats_server, 100), "events stored")
        until(partial(told_alarm, nats_server, "No space left on device"), "an alarm")
        before = stored(nats_server.url)
        until(partial(more_stored, nats_server, before + 5_000), "the feed goes on")
        (seen / "ballast").unlink()
        until(partial(told_alarm, nats_server, "it is written again"), "recording again")
        for market in ("stocks", "options"):
            vendor.control("rate", events_per_s=0, market=market)
        grown = Grown(nats_server)
        until(lambda: not grown.lately(), "all stored")
        shutil.copytree(seen, tmp_path / "journal")
        process.send_signal(signal.SIGTERM)
        finished = finish(process)
    assert finished.exit_code == 143, finished.err
    assert {feed["unrecorded"] for feed in finished.summary["feeds"].values()} == {0}
    check_equal(nats_server, tmp_path)


def told_alarm(server: NatsServer, text: str) -> bool:
    told = [decode_status(one.data) for one in read_stream(server.url, STATUS_STREAM)]
    return any(one.what is What.ALARM and text in one.text for one in told)
