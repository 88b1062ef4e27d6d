from __future__ import annotations

import fcntl
import os
import pty
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from ingestor.runtime.output import PIECE_BYTES, Pen, say

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
