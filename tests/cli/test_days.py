"""``ingestor days`` as its user meets it."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from ingestor.cli.days import _time
from ingestor.model.errors import ExitCode
from ingestor.model.units import NS_PER_S, new_york_ns
from ingestor.runtime.day_list import Day
from tests.dbn_files import DAY, dbn_path, depth, write_dbn
from tests.doctor.test_prerequisites_data import write_day
from tests.doctor.typing_shell import ROOT
from tests.nats_servers import NatsServer
from tests.replay_cli import replay


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "dbn-data"
    for days_later in (0, 2):
        write_day(folder, days_later)
    write_dbn(dbn_path(folder, "mbp-10"), depth(50, step_ns=NS_PER_S), schema="mbp-10")
    return folder


def days(data: Path, *words: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name != "NATS_URL"}
    return subprocess.run(
        [sys.executable, "-P", "-m", "ingestor", "days", *words],
        cwd=data.parent,
        env=clean | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_days_are_lines_below_a_header_with_what_lacks_and_what_is_stored(
    data: Path, nats_server: NatsServer
) -> None:
    flags = ("--data-dir", str(data), "--nats", nats_server.url)
    assert replay(*flags, "--date", f"{DAY}", cwd=data.parent).exit_code == ExitCode.OK
    ended = days(data, *flags)
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = ended.stdout.splitlines()
    assert lines[0].split() == [
        *("date", "feed", "files", "size", "time", "(UTC)", "symbols", "in", "stream")
    ]
    assert [line.split()[0] + " " + line.split()[2] for line in lines[1:4]] == [
        "2024-01-02 mbp10",
        "2024-01-02 trades",
        "2024-01-04 trades",
    ]
    assert [line.split()[-1] for line in lines[1:4]] == ["all", "all", "none"]
    assert lines[4] == "trades lacks 2024-01-03"
    assert lines[5].startswith("stream MARKET_DATA: 60 messages, ")
    assert [line.split() for line in lines[6:]] == [
        ["market.futures.mbp10", "50"],
        ["market.futures.trades", "10"],
    ]


def test_json_is_one_object(data: Path, nats_server: NatsServer) -> None:
    ended = days(data, str(data), "--json", "--nats", nats_server.url)
    told = json.loads(ended.stdout)
    assert [(day["date"], day["feed"], day["held"]) for day in told["days"]] == [
        ("2024-01-02", "mbp10", "unknown"),
        ("2024-01-02", "trades", "unknown"),
        ("2024-01-04", "trades", "unknown"),
    ]
    assert told["holes"] == {"trades": ["2024-01-03"]}
    assert told["stream"] is None


def test_a_server_that_is_not_there_takes_nothing_from_the_list(data: Path) -> None:
    ended = days(data, str(data), "--nats", "nats://127.0.0.1:1")
    assert ended.returncode == ExitCode.OK
    assert ended.stdout.count("\n2024-01-0") == 3
    assert ended.stderr.startswith("ingestor-days: the stream is not asked: no NATS server answers")


def test_a_folder_that_is_not_there_is_an_error(data: Path) -> None:
    ended = days(data, "nowhere")
    assert ended.returncode == ExitCode.NO_DATA
    assert "nowhere does not exist" in ended.stderr


def test_an_empty_folder_has_no_days(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    ended = days(tmp_path / "empty", "empty", "--nats", "nats://127.0.0.1:1")
    assert ended.returncode == ExitCode.OK
    assert ended.stdout.startswith("there is no day of data\n")


def test_a_part_of_a_day_is_told_in_new_york_too() -> None:
    opens_ns = new_york_ns(DAY, dt.time(9, 30))
    day = Day(date=DAY, feed="trades", files=1, size_bytes=1, names=("a.dbn",), first_ns=opens_ns)
    assert _time(day) == "14:30:00 on"
    half = msgspec.structs.replace(day, end_ns=opens_ns + 3_600 * 10**9)
    assert _time(half) == "2024-01-02 14:30 to 2024-01-02 15:30 (09:30 to 10:30 New York)"
