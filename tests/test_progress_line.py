"""The line of progress on real terminals: 40, 80 and 160 columns wide, and while that changes."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.dbn_files import dbn_path, depth, trades, write_dbn
from tests.nats_servers import NatsServer
from tests.terminal import OnTerminal, Screen

LOGGED = re.compile(r"20\d\d-\d\d-\d\dT[\d:.]+Z (INFO|WARNING) ")
LEFT_OVER = re.compile(r"% done|[━─]|\d/s")
PROGRESS = re.compile(r"(paused, )?(\d[\d,]* events?|\d+% done|\d+/s|[━─]+ )")


@contextmanager
def paced(tmp_path: Path, server: NatsServer, columns: int, **more: bool) -> Iterator[OnTerminal]:
    """A replay of ten seconds at the speed of the day."""
    data = tmp_path / "data"
    write_dbn(dbn_path(data, "trades"), trades(10, step_ns=10**9), schema="trades")
    write_dbn(dbn_path(data, "mbp-10"), depth(10_000, step_ns=10**6), schema="mbp-10")
    clean = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    command = [sys.executable, "-m", "ingestor", "replay", "--data-dir", str(data), "--speed", "1"]
    run = OnTerminal(
        [*command, "--nats", server.url],
        columns,
        cwd=tmp_path,
        env=clean | {"PYTHONPATH": str(Path(__file__).parents[1]), "TERM": "xterm"},
        **more,
    )
    try:
        yield run
    finally:
        run.process.kill()


def progress(rows: list[str]) -> str:
    """The one row of progress: what stands behind the lines of the log."""
    return rows[-1] if PROGRESS.match(rows[-1]) else ""


def whole(run: OnTerminal) -> list[str]:
    """Rows without a remainder of progress above the last one, which is that."""
    rows = run.until(lambda rows: bool(re.search(r"[1-9]\d*% done", progress(rows))))
    assert LOGGED.match(rows[0]), rows
    assert not [row for row in rows[:-1] if LEFT_OVER.search(row)], rows
    return rows


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        (40, r"[\d,]+/s, x[\d.]+( of x1)?, \d+% done, 0:00:\d\d left"),
        (
            80,
            r"[\d,]+ events?, [\d,]+/s, at ([-\d]+T)?[\d:]{8}Z, x[\d.]+ of x1, \d+% done, 0:.*",
        ),
        (
            160,
            r"━*─* [\d,]+ events?, [\d,]+/s, at [-\dT:]+Z \([-\d: ]+ New York\), x[\d.]+ of x1,"
            r" \d+% done, 0:.* left",
        ),
    ],
)
def test_one_row_tells_what_fits_it(
    columns: int, shown: str, tmp_path: Path, nats_server: NatsServer
) -> None:
    with paced(tmp_path, nats_server, columns) as run:
        rows = whole(run)
        assert re.fullmatch(shown, rows[-1]), rows[-1]
        assert len(rows[-1]) < columns
        assert run.end() == 130
        assert not [row for row in run.screen.rows if LEFT_OVER.search(row)]


@pytest.mark.parametrize("reflows", [True, False], ids=["reflows", "cuts"])
def test_a_window_that_changes_its_width_leaves_no_broken_line(
    reflows: bool, tmp_path: Path, nats_server: NatsServer
) -> None:
    with paced(tmp_path, nats_server, 160, reflows=reflows) as run:
        whole(run)
        for columns in (40, 160, 80, 40, 120):
            run.resize(columns)
            # What was drawn before the change may still be on its way.
            for _ in range(5):
                run.read(1.0)
            rows = whole(run)
            assert len(rows[-1]) < columns, rows
        assert run.end() == 130


def test_a_terminal_whose_cursor_stands_behind_the_line_would_be_left_with_half_of_it() -> None:
    behind, before = Screen(80), Screen(80)
    behind.write("x" * 70)
    before.write("x" * 70 + "\r")
    for screen in (behind, before):
        screen.resize(40)
        screen.write("\r\x1b[Jnew\r")
    assert behind.rows == ["x" * 40, "new"]
    assert before.rows == ["new"]
