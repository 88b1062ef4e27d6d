"""Signals, from the first line of a program to its last; imported before anything heavy.

Theory. What SIGINT, SIGTERM, SIGHUP and SIGUSR1 (hand over to a standby) do depends on what there
is to end:

    LOADING   modules are being imported and nothing is started: the process ends at once
    STARTING  servers and files may be open: `Stopped` is raised wherever the program is, so that
              they are closed in order; a second signal ends the process at once
    NOTING    processes run: signals are noted, and whoever runs them heeds them

A live run with a configuration file takes SIGHUP for a wish to read it again (`Supervisor.run`).

A program begins with `run_program`. Whoever runs processes inside a program of another owner only
has `noting`, which gives the signals back at its end. The exit code is always 128 and the number.
"""

from __future__ import annotations

import errno
import importlib
import os
import select
import signal
import sys
from contextlib import contextmanager
from enum import Enum

TYPE_CHECKING = False  # each import delays the moment from which signals are heard
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType
    from typing import Final, NoReturn

WANTED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
EXIT_BASE: Final = 128

_INTERNAL: Final = 1  # ExitCode.INTERNAL; this module imports nothing of ours
_OF_OUTPUT: Final = frozenset({errno.ENOSPC, errno.EIO, errno.EBADF})


class Stopped(KeyboardInterrupt):
    """A signal came while the program was starting."""


class _Phase(Enum):
    FOREIGN = "a program that is not ours"
    LOADING = "loading"
    STARTING = "starting"
    NOTING = "noting"


class _State:
    """What this process knows of signals."""

    phase = _Phase.FOREIGN
    prog = "ingestor"
    noted: Final[list[signal.Signals]] = []


def noted() -> list[signal.Signals]:
    """Return the signals that have come, the first one first."""
    return list(_State.noted)


def take(number: signal.Signals) -> bool:
    """Take a signal out of those noted, which stop the run; whether it had come."""
    had_come = number in _State.noted
    while number in _State.noted:
        _State.noted.remove(number)
    return had_come


def has_terminal() -> bool:
    """Whether this process has a terminal that it is controlled by; not once that was closed."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        return False
    return True


@contextmanager
def noting() -> Iterator[None]:
    """Only note signals from here on; a program of ours goes on doing so to its end."""
    ours = _State.phase is not _Phase.FOREIGN
    before = _State.phase
    _State.phase = _Phase.NOTING
    handlers = {} if ours else {number: signal.signal(number, _hear) for number in WANTED}
    try:
        yield
    finally:
        if not ours:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            _State.phase = before
            _State.noted.clear()


def run_program(prog: str, module: str, function: str) -> NoReturn:
    """Import `module`, call its `function`, and exit with the code that it returns."""
    _State.prog, _State.phase = prog, _Phase.LOADING
    _open_what_is_closed()
    for number in WANTED:
        # nohup ignores SIGHUP, and that is to last.
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _hear)
    # bin/ starts Python with these blocked: what came meanwhile is heard now.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, WANTED)
    sys.exit(_flushed(_exit_code(module, function)))


def _exit_code(module: str, function: str) -> int:
    try:
        try:
            main = getattr(importlib.import_module(module), function)
            _State.phase = _Phase.STARTING
            return int(main() or 0)
        finally:
            _State.phase = _Phase.NOTING
    except Stopped:
        _say(f"{_State.noted[0].name}: stopped before anything was published")
        return EXIT_BASE + _State.noted[0]
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else 0
    except BrokenPipeError:
        return 0  # whoever read has seen enough
    except OSError as error:
        if error.filename is not None or error.errno not in _OF_OUTPUT:
            raise
        _say(f"standard output cannot be written: {error.strerror}")
        return _INTERNAL


def _flushed(code: int) -> int:
    """Write what standard output still holds; return the exit code."""
    try:
        sys.stdout.flush()
    except OSError as error:
        # Without this Python complains once more when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if isinstance(error, BrokenPipeError):
            return code
        if not code:
            _say(f"standard output cannot be written: {error.strerror}")
        return code or _INTERNAL
    return code


def _hear(number: int, _frame: FrameType | None) -> None:
    _State.noted.append(signal.Signals(number))
    again = len(_State.noted) > 1
    if _State.phase is _Phase.LOADING or (_State.phase is _Phase.STARTING and again):
        _say(f"{_State.noted[0].name}: stopped before anything was published")
        os._exit(EXIT_BASE + _State.noted[0])
    if _State.phase is _Phase.STARTING:
        raise Stopped


def _say(sentence: str) -> None:
    """Write a line to standard error, unless that would have to be waited for."""
    poll = select.poll()
    poll.register(2, select.POLLOUT)
    try:
        if poll.poll(0):
            os.write(2, f"{_State.prog}: {sentence}\n".encode())
    except OSError:
        return  # there is nobody left to tell


def _open_what_is_closed() -> None:
    """Let no file, socket or ring take the place of a standard stream that was closed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
            os.set_inheritable(number, True)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - lasts as long as the process
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
