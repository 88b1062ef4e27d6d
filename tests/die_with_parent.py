"""Become another program, which the kernel ends (SIGTERM) when the process that started us ends.

Run as a file, ``python -I -S die_with_parent.py PARENT_PID PROGRAM ARGS...``: asking for the signal
between fork and exec of the parent (``preexec_fn``) is not safe beside threads. The kernel means
the *thread* that forked, so start this from one that lives as long as its process.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


def _main(arguments: list[str]) -> None:
    parent, *program = arguments
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # A parent that ended before the line above is not noticed by the kernel any more.
    if os.getppid() == int(parent):
        os.execv(program[0], program)


if __name__ == "__main__":
    _main(sys.argv[1:])
