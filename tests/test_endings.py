"""A signal at any moment, the server there, away or frozen: how the run ends and what it says.

Every try is made from a seed: run the test alone with the seed of a failure to see it again.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pytest

from ingestor.model.errors import ExitCode
from tests.conftest import StartNatsServer
from tests.dbn_files import dbn_path, depth, trades, write_dbn
from tests.live_cli import feeds_of, simulator, stored, until
from tests.nats_servers import NatsServer
from tests.processes import kill_to_the_end
from tests.replay_cli import Finished, finish, read_stream

SEEDS: Final = range(17)
FEW: Final = range(1)
MOMENTS_S: Final = 3.0
"""A run has begun to publish by then, also on a busy machine."""
BOUND_S: Final = 15.0
"""From the first signal to the end: 3 s without an answer, 5 s to close, and a busy machine."""
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_DEAF: Final = ("env", "--block-signal=INT,TERM,HUP")
"""As bin/ starts Python, which shows tracebacks while it has not come to the first line of ours."""


@dataclass(frozen=True)
class Program:
    """A command, and what it needs."""

    module: str
    arguments: tuple[str, ...]
    env: Mapping[str, str]


@dataclass(frozen=True)
class Ending:
    """How a run ended: the first signal, what the process left, how long it took."""

    number: signal.Signals
    finished: Finished
    took_s: float
    ran_out: bool
    """The run had ended by itself before the signal came."""


def begin(program: Program, server: NatsServer, cwd: Path) -> subprocess.Popen[str]:
    root = str(Path(__file__).parents[1])
    command = [*_DEAF, sys.executable, "-P", "-m", program.module, "--nats", server.url]
    return subprocess.Popen(
        [*command, "--summary", "json", *program.arguments],
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": root, **program.env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended_by_signal(seed: str, program: Program, server: NatsServer, how: str, cwd: Path) -> Ending:
    chance = random.Random(seed)
    moment_s, trouble_share = chance.uniform(0, MOMENTS_S), chance.random()
    number = chance.choice(SIGNALS)
    again_s = chance.uniform(0, 1) if chance.random() < 0.5 else None
    process = begin(program, server, cwd)
    time.sleep(moment_s * trouble_share)
    if how == "frozen":
        server.pause()
    elif how == "away":
        server.kill()
    time.sleep(moment_s * (1 - trouble_share))
    ran_out = process.poll() is not None
    began = time.monotonic()
    process.send_signal(number)
    if again_s is not None:
        time.sleep(again_s)
        process.send_signal(number)
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    took_s = time.monotonic() - began
    return Ending(number, Finished(process.returncode, out, err), took_s, ran_out)


def check(ending: Ending, server: NatsServer, how: str) -> None:
    finished = ending.finished
    assert "Traceback" not in finished.err
    assert "KeyboardInterrupt" not in finished.err
    if not ending.ran_out:
        # Killed by the kernel is what a shell shows as the same code.
        assert finished.exit_code in (128 + ending.number, -ending.number)
        assert ending.took_s < BOUND_S
    if how == "frozen":
        server.resume()
    elif how == "away":
        server.start()
    there = stored(server.url)
    if finished.out:
        summary = json.loads(finished.out)
        assert summary["published"] <= there <= summary["published"] + summary["unknown"]
    else:
        assert there == 0, "there is no summary, and events are stored"


def replay_of(folder: Path) -> Program:
    """Paced, so that there is always something under way, for longer than any try lasts."""
    write_dbn(dbn_path(folder, "trades"), trades(20_000, step_ns=10**6), schema="trades")
    write_dbn(dbn_path(folder, "mbp-10"), depth(60_000, step_ns=10**6 // 3), schema="mbp-10")
    arguments = ("--data-dir", str(folder), "--speed", "1")
    return Program("ingestor.replay_publisher", arguments, {})


def tries(
    kind: str, how: str, seeds: range, start_nats_server: StartNatsServer, tmp_path: Path
) -> None:
    longest_s, codes = 0.0, []
    with simulator("--rate", "3000", "--options-rate", "300") as vendor:
        replayed = replay_of(tmp_path / "data")
        program = replayed if kind == "replay" else Program("ingestor.main", (), feeds_of(vendor))
        for seed in seeds:
            server = start_nats_server()
            ending = ended_by_signal(f"{kind} {how} {seed}", program, server, how, tmp_path)
            try:
                check(ending, server, how)
            except AssertionError:
                print(f"seed {seed}: {ending}")
                raise
            finally:
                if server.running:
                    server.resume()
                    server.stop()
            longest_s = max(longest_s, ending.took_s)
            codes.append(ending.finished.exit_code)
    print(f"{kind}, NATS {how}: {len(codes)} signals, codes {sorted(codes)}, {longest_s:.1f} s")


def children(pid: int) -> list[int]:
    """Pids of the processes of a run: the feeds, then the publisher."""
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def begun_to_store(program: Program, server: NatsServer, cwd: Path) -> subprocess.Popen[str]:
    process = begin(program, server, cwd)
    until(lambda: stored(server.url) > 0, "something is stored")
    return process


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Mapping[str, Program]]:
    """A live run, and a replay, that go on for as long as any test lasts."""
    with simulator("--rate", "3000", "--options-rate", "300") as vendor:
        yield {
            "replay": replay_of(tmp_path / "data"),
            "live": Program("ingestor.main", (), feeds_of(vendor)),
        }


@pytest.mark.parametrize("kind", ["replay", pytest.param("live", marks=pytest.mark.slow)])
def test_a_killed_publisher_does_not_take_what_is_known_with_it(
    kind: str, programs: Mapping[str, Program], nats_server: NatsServer, tmp_path: Path
) -> None:
    process = begun_to_store(programs[kind], nats_server, tmp_path)
    kill_to_the_end(process, "publisher")
    finished = finish(process)
    summary, there = finished.summary, stored(nats_server.url)
    assert finished.exit_code == ExitCode.CHILD_FAILED
    assert 0 < summary["published"] <= there <= summary["published"] + summary["unknown"]
    assert sum(summary["by_subject"].values()) == summary["published"]
    assert (summary["first_seq"], summary["publish_mode"]) == (1, "fast_ingest")


def test_a_killed_publisher_has_counted_what_is_stored_by_subject(
    programs: Mapping[str, Program], nats_server: NatsServer, tmp_path: Path
) -> None:
    process = begin(programs["replay"], nats_server, tmp_path)
    until(lambda: stored(nats_server.url) > 12_000, "both subjects have events")
    kill_to_the_end(process, "publisher")
    summary = finish(process).summary
    by_subject = by_subject_of(nats_server)
    # What was under way when it died is unknown, whichever subject it was of.
    assert list(summary["by_subject"]) == list(by_subject)
    for subject, there in by_subject.items():
        assert (
            0
            < summary["by_subject"][subject]
            <= there
            <= summary["by_subject"][subject] + summary["unknown"]
        )
    assert summary["elapsed_s"] > 0
    assert summary["first_ts_event_ns"] < summary["last_ts_event_ns"]


def by_subject_of(server: NatsServer) -> dict[str, int]:
    found: dict[str, int] = {}
    for message in read_stream(server.url):
        found[message.subject] = found.get(message.subject, 0) + 1
    return found


# A frozen server is also one of the endings at any moment, above.
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["replay", "live"])
def test_a_server_that_is_frozen_when_the_run_is_stopped_leaves_a_true_summary(
    kind: str, programs: Mapping[str, Program], nats_server: NatsServer, tmp_path: Path
) -> None:
    process = begun_to_store(programs[kind], nats_server, tmp_path)
    nats_server.pause()
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    finished = finish(process)
    nats_server.resume()
    summary, there = finished.summary, stored(nats_server.url)
    assert finished.exit_code == 130
    assert summary["unknown"] > 0
    assert summary["published"] <= there <= summary["published"] + summary["unknown"]
    if kind == "live":
        handed_on = sum(feed["records"] for feed in summary["feeds"].values())
        told = summary["published"] + summary["unknown"] + summary["not_stored"]
        assert told == handed_on


@pytest.mark.parametrize("kind", ["replay", pytest.param("live", marks=pytest.mark.slow)])
def test_a_run_that_was_suspended_goes_on(
    kind: str, programs: Mapping[str, Program], nats_server: NatsServer, tmp_path: Path
) -> None:
    (tmp_path / "run.toml").write_text("[process]\nsilence_s = 3\n[polygon]\nsilence_s = 3\n")
    program = programs[kind]
    more = (*program.arguments, "--config", "run.toml")
    process = begun_to_store(replace(program, arguments=more), nats_server, tmp_path)
    family = [process.pid, *children(process.pid)]
    for pid in family:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(4)
    for pid in reversed(family):
        os.kill(pid, signal.SIGCONT)
    before = stored(nats_server.url)
    until(lambda: stored(nats_server.url) > before + 1_000, "the run goes on")
    process.send_signal(signal.SIGTERM)
    finished = finish(process)
    assert finished.exit_code == 143
    assert "no sign of life" not in finished.err
    assert "no data for" not in finished.err
    assert "the run stood still for" in finished.err


@pytest.mark.parametrize("how", ["there", "frozen"])
@pytest.mark.parametrize("kind", ["replay", "live"])
def test_a_signal_at_any_moment_ends_a_run_with_its_code_and_a_true_summary(
    kind: str, how: str, start_nats_server: StartNatsServer, tmp_path: Path
) -> None:
    tries(kind, how, FEW, start_nats_server, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("how", ["there", "away", "frozen"])
@pytest.mark.parametrize("kind", ["replay", "live"])
def test_a_hundred_signals_at_any_moment(
    kind: str, how: str, start_nats_server: StartNatsServer, tmp_path: Path
) -> None:
    tries(kind, how, SEEDS, start_nats_server, tmp_path)
