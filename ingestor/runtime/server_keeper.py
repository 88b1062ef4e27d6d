"""Run a program for as long as somebody uses it; it ends in order with its last user.

Run as a file, ``python -I -S server_keeper.py USERS_FILE FD PROGRAM ARGS...``; the descriptor is
left to the program alone. A user holds a shared lock (flock) on the file. The kernel lets go of it
however the user ends, so the exclusive lock, once the keeper gets it, says that there is none left;
and while the keeper has it, nobody can become a user of a program that is ending. The program also
ends when its keeper is killed.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import sys
import time

TYPE_CHECKING = False  # run as a file, it starts in 15 ms; these two would take 30 more
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Final

POLL_S: Final = 0.05
PATIENCE_S: Final = 10.0
"""A program that is told to end and does not is killed after this time."""

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_NEWS: Final = frozenset({signal.SIGCHLD, signal.SIGTERM})


class Use:
    """A user's lock: the program of this folder is in use.

    Raises BlockingIOError while the program is ending.
    """

    def __init__(self, folder: Path) -> None:
        self._fd = os.open(users_file(folder), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._fd)
            raise

    def end(self) -> bool:
        """Give it up; whether this was the last user."""
        last = _unused(self._fd)
        os.close(self._fd)
        return last


def users_file(folder: Path) -> Path:
    """Return the file that users of a folder's program lock."""
    return folder / "users"


def _main(path: str, left_to_program: int, program: list[str]) -> int:
    users = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    signal.pthread_sigmask(signal.SIG_BLOCK, _NEWS)
    pid = _started(program)
    os.close(left_to_program)
    ends_by_s = None
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        if ends_by_s is not None and time.monotonic() > ends_by_s:
            os.kill(pid, signal.SIGKILL)
        news = signal.sigtimedwait(_NEWS, POLL_S)
        told = news is not None and news.si_signo == signal.SIGTERM
        if ends_by_s is None and (told or _unused(users)):
            ends_by_s = time.monotonic() + PATIENCE_S
            os.kill(pid, signal.SIGTERM)


def _started(program: list[str]) -> int:
    """Fork the program; there is one thread, so that the kernel means this process by a parent."""
    keeper = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _NEWS)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() == keeper:
            os.execv(program[0], program)  # noqa: S606  (no shell is wanted)
    finally:
        os._exit(127)


def _unused(users: int) -> bool:
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
