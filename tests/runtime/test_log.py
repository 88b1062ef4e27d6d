from __future__ import annotations

import fcntl
import logging
import os
import pty
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from ingestor.model.bounds import MAX_LINE_CHARS
from ingestor.runtime import log as logs
from ingestor.runtime.log import MAX_PLACES, MAX_REPEATS, PIECE_BYTES, Pen, Place, Repeats, say

SMALL_PIPE = 4096


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe that holds one page, which is soon full."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, SMALL_PIPE)
    yield reading, writing
    for one in (reading, writing):
        try:
            os.close(one)
        except OSError:
            continue


def read_all(reading: int) -> bytes:
    """What is in a pipe now."""
    os.set_blocking(reading, False)
    found = b""
    try:
        while piece := os.read(reading, 65_536):
            found += piece
    except BlockingIOError:
        pass
    return found


def test_what_a_full_pipe_does_not_take_is_kept_in_order(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    pen = Pen(writing)
    lines = [b"%04d\n" % number for number in range(3_000)]
    assert all(pen.put(line) for line in lines)
    found = read_all(reading)
    while not pen.drain():
        found += read_all(reading)
    assert found + read_all(reading) == b"".join(lines)


def test_beyond_the_bound_lines_are_lost_and_counted(pipe: tuple[int, int]) -> None:
    pen = Pen(pipe[1], max_held_bytes=SMALL_PIPE)
    taken = [pen.put(b"x" * 64) for _ in range(200)]
    assert taken.count(False) == pen.lost > 0
    assert 2 * SMALL_PIPE - 64 <= 64 * taken.count(True) <= 2 * SMALL_PIPE


def test_the_descriptor_itself_goes_on_waiting_for_whoever_shares_it(pipe: tuple[int, int]) -> None:
    Pen(pipe[1]).put(b"a\n")
    assert os.get_blocking(pipe[1])


def test_a_terminal_that_is_stopped_holds_up_nobody() -> None:
    master, slave = pty.openpty()
    pen = Pen(slave)
    for _ in range(20_000):
        pen.put(b"a line of the log\n")
    assert pen.lost > 0
    os.close(master)
    pen.drain()
    os.close(slave)


def test_a_socket_whose_peer_does_not_read_holds_up_nobody() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        pen = Pen(ours.fileno())
        for _ in range(20_000):
            pen.put(b"a line of the log\n" * 10)
        assert pen.lost > 0
        assert ours.getblocking()


def test_a_reader_that_has_gone_costs_the_lines_and_nothing_else(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    pen = Pen(writing)
    os.close(reading)
    pen.put(b"a\n")
    pen.put(b"b\n")
    assert (pen.lost, pen.drain()) == (2, True)


def test_a_full_disk_costs_the_lines_and_nothing_else() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    pen = Pen(full)
    pen.put(b"a\n")
    assert pen.lost == 1
    assert not say("a report", full)
    os.close(full)


def test_a_report_waits_for_its_reader_and_not_for_ever(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    text = "y" * (5 * PIECE_BYTES)
    began = time.monotonic()
    assert not say(text, writing, timeout_s=0.2)
    assert time.monotonic() - began < 2
    read_all(reading)
    os.set_blocking(reading, True)
    found: list[bytes] = []

    def read() -> None:
        while sum(map(len, found)) <= len(text):
            found.append(os.read(reading, 1_000))

    thread = threading.Thread(target=read)
    thread.start()
    assert say(text, writing)
    thread.join(10)
    assert b"".join(found) == text.encode() + b"\n"


PLACE: Place = ("a", logging.INFO, "%s")
Captured = pytest.CaptureFixture[str]
anything = logging.getLogger("anything")


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    # A handler that an earlier test has left would tell here what it left out there.
    root.handlers[:] = [one for one in handlers if not isinstance(one, logs._Handler)]
    monkeypatch.setattr(logs, "_secrets", set())
    yield
    root.handlers[:], root.level = handlers, level


def said(capfd: Captured) -> list[str]:
    """The lines of the log, without their times."""
    lines = capfd.readouterr().err.split("\n")
    assert lines.pop() == ""
    assert all(line[10] == "T" and line[23] == "Z" for line in lines), lines
    return [line[25:] for line in lines]


def tell_broken(text: str) -> None:
    error = ValueError(text)
    anything.error("it broke", exc_info=error)


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("data flows", "data flows"),
        ("stocks: data flows", "data flows"),
        ("options: x", "options: x"),
    ],
)
def test_a_line_says_when_how_bad_and_which_process_once(
    capfd: Captured, message: str, told: str
) -> None:
    logs.configure("stocks", "info")
    anything.info("%s", message)
    assert said(capfd) == [f"INFO    stocks: {told}"]


def test_what_libraries_tell_about_wires_is_left_out(capfd: Captured) -> None:
    logs.configure("stocks", "DEBUG")
    logging.getLogger("websockets.client").info("> TEXT {key}")
    logging.getLogger("nats.aio").error("reconnecting")
    assert capfd.readouterr().err == ""


def test_on_a_terminal_the_line_of_progress_is_erased_first(
    capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "isatty", lambda fd: True)
    logs.configure("stocks", "INFO")
    anything.info("data flows")
    assert capfd.readouterr().err.startswith("\r\x1b[J20")


def test_foreign_text_forges_no_line_and_moves_no_cursor(capfd: Captured) -> None:
    logs.configure("stocks", "INFO")
    anything.info("%s", "ok\n2025-12-16T00:00:00.000Z INFO    stocks: forged\r\x1b[2K\u202e\x9b2J")
    (line,) = said(capfd)
    assert line.isprintable()
    assert r"ok\n2025" in line


def test_a_long_line_is_cut(capfd: Captured) -> None:
    logs.configure("stocks", "INFO")
    anything.info("%s", "x" * 1_000_000)
    (line,) = said(capfd)
    assert len(line) == len("INFO    stocks: ") + MAX_LINE_CHARS


def test_a_traceback_is_lines_of_the_log(capfd: Captured) -> None:
    logs.configure("stocks", "INFO")
    tell_broken("first\nsecond\x1b[2K")
    lines = said(capfd)
    assert lines[:2] == [
        "ERROR   stocks: it broke",
        "ERROR   stocks:   ValueError: first",
    ]
    assert lines[-1] == r"ERROR   stocks:   second\x1b[2K"


def test_a_message_that_does_not_fit_its_arguments_is_told_and_raises_nothing(
    capfd: Captured,
) -> None:
    logs.configure("stocks", "INFO")
    anything.info("%d rows", "many")
    (line,) = said(capfd)
    assert "'%d rows' cannot be told with its arguments" in line


@pytest.mark.parametrize("echo", ["5ecret/k3y", "5ecret%2Fk3y"])
def test_a_secret_is_never_shown_whoever_says_it(capfd: Captured, echo: str) -> None:
    logs.configure("stocks", "INFO")
    logs.hide("5ecret/k3y", None, "")
    anything.warning("the vendor says: %s", f"unknown key '{echo}'")
    tell_broken(echo)
    logs.complain("ingestor-live", f"refused: {echo}\n{echo}")
    err = capfd.readouterr().err
    assert echo not in err
    assert "unknown key '***'" in err
    assert err.endswith("ingestor-live: refused: ***\n***\n")


def test_what_repeats_itself_is_told_some_times_and_then_counted(
    capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs.configure("stocks", "INFO")
    # A busy machine takes longer for these lines than the span in which they are counted.
    monkeypatch.setattr("time.monotonic", lambda: 0.0)
    for number in range(10_000):
        anything.warning("error status %d", number)
    anything.warning("something else")
    assert len(said(capfd)) == MAX_REPEATS + 1
    monkeypatch.setattr("time.monotonic", lambda: float("inf"))
    logs.drain()
    left_out = 10_000 - MAX_REPEATS
    assert said(capfd) == [f"WARNING stocks: and {left_out} more lines like 'error status %d'"]


def test_a_line_with_a_pace_of_its_own_is_never_left_out(capfd: Captured) -> None:
    logs.configure("stocks", "INFO")
    for _ in range(3 * MAX_REPEATS):
        anything.info("%s", "so far", extra=logs.FREE)
    assert len(said(capfd)) == 3 * MAX_REPEATS


def test_repeats_begin_anew_after_a_while() -> None:
    repeats = Repeats(most=2, window_s=10)
    assert [repeats.told(PLACE, now) for now in (0, 1, 2, 9)] == [True, True, False, False]
    assert list(repeats.ended(9.9)) == []
    assert list(repeats.ended(10)) == [(PLACE, 2)]
    assert repeats.told(PLACE, 10)
    assert list(repeats.ended(20)) == []


def test_places_are_counted_up_to_a_bound_and_told_beyond() -> None:
    repeats = Repeats(most=1)
    for number in range(MAX_PLACES):
        assert repeats.told(("a", 0, str(number)), 0)
    assert [repeats.told(("a", 0, "one more"), 0) for _ in range(3)] == [True] * 3


def test_lines_that_nobody_read_are_counted_and_told_when_the_reader_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reading, writing = os.pipe()
    monkeypatch.setattr(logs, "STDERR", writing)
    logs.configure("stocks", "INFO")
    for number in range(20_000):
        anything.info("line %d", number, extra=logs.FREE)
    os.set_blocking(reading, False)
    found = os.read(reading, 1_000_000)
    for _ in range(1_000):
        logs.drain()
        try:
            found += os.read(reading, 1_000_000)
        except BlockingIOError:
            break
    lines = found.decode().splitlines()
    numbers = [int(line.rpartition(" ")[2]) for line in lines[:-1]]
    assert numbers == list(range(len(numbers)))
    lost = 20_000 - len(numbers)
    assert f": {lost} lines of this log were lost" in lines[-1]
    os.close(reading)
    os.close(writing)
