"""Random sequences of commands on the real day: the stream is what the sequence defines."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from ingestor.model.units import iso_utc
from tests.conftest import StartNatsServer
from tests.replay_cli import read_stream, replay
from tests.test_control import Steered

SEED: Final = 20_231_225
SEQUENCES: Final = 200
COMMANDS: Final = 5
ROWS_LEFT: Final = 6_000
"""No sequence comes to the end of the day, with which the replay would end."""
DATA: Final = Path(__file__).parents[2] / "shared" / "data" / "dbn-data"

Event = tuple[str, bytes]


def stored(url: str) -> list[Event]:
    return [(one.subject, one.data) for one in read_stream(url)]


class Model:
    """What commands define, by the events of the whole day and nothing else."""

    def __init__(self, events: list[Event]) -> None:
        self._events = events
        self.times_ns = np.array([json.loads(data)["ts_event_ns"] for _, data in events])
        self.sent: list[Event] = []
        self.seek(int(self.times_ns[0]))

    def seek(self, at_ns: int) -> None:
        self._rows = np.flatnonzero(self.times_ns >= at_ns)
        # An event that steps back in time goes with those before it.
        self._keys_ns = np.maximum.accumulate(self.times_ns[self._rows])
        self._at, self._position_ns, self._stepped_to_ns = 0, at_ns, 0

    def take(self, count: int) -> None:
        stop = self._at + count
        self.sent += [self._events[row] for row in self._rows[self._at : stop]]
        if count:
            self._at, self._position_ns = stop, int(self._keys_ns[stop - 1])

    def take_before(self, at_ns: int) -> None:
        self.take(max(int(np.searchsorted(self._keys_ns, at_ns)) - self._at, 0))

    def step(self, span_ns: int) -> None:
        self._stepped_to_ns = max(self._position_ns, self._stepped_to_ns) + span_ns
        self.take_before(self._stepped_to_ns)

    def ahead_ns(self, rows: int) -> int:
        return int(self._keys_ns[self._at + rows]) + 1


def commands(model: Model, random_: random.Random) -> Iterator[tuple[str, str]]:
    """Draw a sequence that begins with a seek, and have the model do it."""
    for what in ["seek", *random_.choices(("seek", "step", "span", "until", "speed"), k=COMMANDS)]:
        match what:
            case "seek":
                row = random_.randrange(len(model.times_ns) - ROWS_LEFT)
                at_ns = int(model.times_ns[row]) + random_.choice((-1, 0, 1))
                model.seek(at_ns)
                yield "seek", iso_utc(at_ns)
            case "step":
                count = random_.randrange(1, 200)
                model.take(count)
                yield "step", str(count)
            case "span":
                span_ms = random_.randrange(1, 2_000)
                model.step(span_ms * 10**6)
                yield "step", f"{span_ms}ms"
            case "until":
                until_ns = model.ahead_ns(random_.randrange(1, 300))
                model.take_before(until_ns)
                yield "until", iso_utc(until_ns)
                yield "resume", ""
            case _:
                yield "speed", random_.choice(("max", "20000", "5000", "1000"))


@pytest.mark.slow
def test_random_sequences_on_the_real_day_publish_what_they_define(
    start_nats_server: StartNatsServer, tmp_path: Path
) -> None:
    """Some minutes; `SEED` and the number of a sequence make it again."""
    data = shutil.copytree(DATA, tmp_path / "data")
    fresh, server = start_nats_server(), start_nats_server()
    replay("--data-dir", str(data), "--nats", fresh.url, cwd=tmp_path)
    model = Model(stored(fresh.url))
    run = Steered(data, server, "--paused", "--speed", "5000")
    ends = []
    for number in range(SEQUENCES):
        for command, value in commands(model, random.Random(SEED + number)):
            state = run.do(command, value)["state"]
            while state["seeking_ns"] is not None or not state["paused"]:
                state = run.do("status")["state"]
        ends.append(len(model.sent))
    run.process.terminate()
    out, err = run.process.communicate(timeout=20)
    found = stored(server.url)
    begin = 0
    for number, end in enumerate(ends):
        assert found[begin:end] == model.sent[begin:end], f"sequence {number}"
        begin = end
    assert len(found) == len(model.sent)
    print(f"{SEQUENCES} sequences, {len(found):,} events, late: {json.loads(out)['latency']}")
    assert "Traceback" not in err


PACED_S: Final = 12.0
CHANGES: Final = ("nothing", "pause", "seek", "speed", "step")


def change(run: Steered, what: str, random_: random.Random) -> None:
    """Do one change of a kind, after which the replay goes by its schedule again."""
    match what:
        case "pause":
            run.do("pause")
            time.sleep(random_.uniform(0, 0.2))
            run.do("resume")
        case "seek":
            run.do("seek", f"2023-12-25T23:{random_.randrange(5, 35):02d}:00Z")
        case "speed":
            run.do("speed", random_.choice(("20", "40", "60", "80")))
        case "step":
            run.do("step", random_.choice(("1", "25", "2s")))
            run.do("resume")


@pytest.mark.slow
@pytest.mark.parametrize("what", CHANGES)
def test_a_schedule_is_kept_after_each_kind_of_change(
    start_nats_server: StartNatsServer, tmp_path: Path, what: str
) -> None:
    """12 s each at about 600 rows a second: how late rows are when a change came just before."""
    data, random_ = shutil.copytree(DATA, tmp_path / "data"), random.Random(SEED)
    run = Steered(data, start_nats_server(), "--paused", "--speed", "60")
    run.do("seek", "2023-12-25T23:00:00Z")
    run.do("resume")
    end_s = time.monotonic() + PACED_S
    changes = 0
    while time.monotonic() < end_s:
        time.sleep(random_.uniform(0.05, 0.3))
        change(run, what, random_)
        changes += 1
    run.process.terminate()
    out, err = run.process.communicate(timeout=20)
    late = json.loads(out)["latency"]["due_to_sent"]
    p50, p99, most = (late[name] / 10**6 for name in ("p50_ns", "p99_ns", "max_ns"))
    print(
        f"{what}: {changes} changes, {late['rows']:,} rows, late by"
        f" {p50:.3f} ms (p50), {p99:.3f} ms (p99), {most:.3f} ms (max)"
    )
    assert late["rows"] > 1_000
    assert p50 < 5
    # A row that is late because of a change that is not forgiven would be late by seconds.
    assert most < 1_000
    assert "Traceback" not in err
