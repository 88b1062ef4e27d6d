"""What a signal does to a program of ours, from its first line to its last."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ingestor.config.schema import Process
from ingestor.feeds.polygon.socket import SocketLimits
from ingestor.nats import connection
from ingestor.publish import status
from ingestor.runtime import live_process, publisher_process
from ingestor.runtime.signals import WANTED

# In short steps: a signal that comes right before a sleep begins is heard at its end.
_LOADING = """
import time
print("ready", flush=True)
for _ in range(3_000):
    time.sleep(0.01)
"""
_STARTING = """
import time
def main():
    try:
        print("ready", flush=True)
        for _ in range(3_000):
            time.sleep(0.01)
    finally:
        print("closed", flush=True)
"""
_STUBBORN = """
import time
def main():
    try:
        print("ready", flush=True)
        for _ in range(3_000):
            time.sleep(0.01)
    finally:
        print("closing", flush=True)
        for _ in range(3_000):
            time.sleep(0.01)
"""
_DONE = "def main(): return 7"
_BROKEN_REPORT = 'def main(): print("a report"); return 0'


def begin(
    program: str, cwd: Path, *before: str, stdout: int = subprocess.PIPE
) -> subprocess.Popen[str]:
    (cwd / "a_program.py").write_text(program)
    code = "from ingestor.runtime.signals import run_program as r; r('prog', 'a_program', 'main')"
    command = [*before, sys.executable, "-c", code]
    return subprocess.Popen(command, cwd=cwd, stdout=stdout, stderr=subprocess.PIPE, text=True)


def ready(process: subprocess.Popen[str], word: str = "ready") -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == f"{word}\n"


@pytest.mark.parametrize("number", WANTED)
def test_while_modules_are_imported_the_process_ends_at_once(
    tmp_path: Path, number: signal.Signals
) -> None:
    process = begin(_LOADING, tmp_path)
    ready(process)
    process.send_signal(number)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 128 + number
    assert err == f"prog: {number.name}: stopped before anything was published\n"


@pytest.mark.parametrize("number", WANTED)
def test_while_a_program_starts_what_is_open_is_closed(
    tmp_path: Path, number: signal.Signals
) -> None:
    process = begin(_STARTING, tmp_path)
    ready(process)
    process.send_signal(number)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 128 + number
    assert out == "closed\n"
    assert err == f"prog: {number.name}: stopped before anything was published\n"


def test_a_second_signal_waits_for_nothing(tmp_path: Path) -> None:
    process = begin(_STUBBORN, tmp_path)
    ready(process)
    process.send_signal(signal.SIGINT)
    ready(process, "closing")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == 130


def test_a_signal_that_was_blocked_until_the_first_line_is_heard_there(tmp_path: Path) -> None:
    blocked = ("sh", "-c", 'kill -TERM $$; exec "$@"', "sh")
    process = begin(_STARTING, tmp_path, "env", "--block-signal=TERM", *blocked)
    process.communicate(timeout=10)
    assert process.returncode == 143


def test_what_nohup_ignores_stays_ignored(tmp_path: Path) -> None:
    process = begin(_STARTING, tmp_path, "env", "--ignore-signal=HUP")
    ready(process)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == 143


def test_the_exit_code_is_that_of_the_function(tmp_path: Path) -> None:
    process = begin(_DONE, tmp_path)
    process.communicate(timeout=10)
    assert process.returncode == 7


def test_a_result_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        process = begin(_BROKEN_REPORT, tmp_path, stdout=full.fileno())
        _, err = process.communicate(timeout=10)
    assert process.returncode == 1
    assert err == "prog: standard output cannot be written: No space left on device\n"


def test_the_deadlines_of_a_stop_add_up() -> None:
    """Feeds, then the publisher's work, then its closing: less than the supervisor waits."""
    process, socket = Process(), SocketLimits()
    feeds_s = 2 * socket.close_s + 2.0 + live_process.END_TIMEOUT_S  # polygon.drain_s is 2
    closing_s = (
        max(publisher_process.HOPELESS_FLUSH_S, status.CLOSE_TIMEOUT_S) + connection.CLOSE_TIMEOUT_S
    )
    assert closing_s < publisher_process.CLOSE_S
    assert feeds_s + publisher_process.STALLED_S + publisher_process.CLOSE_S < process.stop_s


_WATCHING_TERMINAL = """
import signal
from ingestor.runtime.signals import has_terminal
heard = []
signal.signal(signal.SIGHUP, lambda *_: heard.append(1))
def main():
    print(has_terminal(), flush=True)
    while not heard:
        signal.pause()
    print(has_terminal(), flush=True)
"""


def test_a_terminal_that_was_closed_is_known_to_be_gone(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    (tmp_path / "a_program.py").write_text(_WATCHING_TERMINAL)
    process = subprocess.Popen(
        ("setsid", "--ctty", sys.executable, "-c", "import a_program; a_program.main()"),
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{Path(__file__).parents[2]}:{tmp_path}"},
        stdin=slave,
        stdout=subprocess.PIPE,
        text=True,
    )
    os.close(slave)
    ready(process, "True")
    os.close(master)
    ready(process, "False")
    assert process.wait(10) == 0
