"""A program started through the wrapper ends when its parent does."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil

from tests import die_with_parent
from tests.processes import ended

_WRAPPER = [sys.executable, "-I", "-S", die_with_parent.__file__]
_PARENT = """
import os, subprocess, sys
child = subprocess.Popen([*sys.argv[1:], str(os.getpid()), "/bin/sh", "-c", "echo; exec sleep 60"],
                         stdout=subprocess.PIPE, start_new_session=True)
child.stdout.readline()
print(child.pid, flush=True)
sys.stdin.read()
"""


def test_the_program_takes_the_place_of_the_wrapper() -> None:
    command = [*_WRAPPER, str(os.getpid()), "/bin/sh", "-c", "echo $$"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.communicate(timeout=10)[0].strip() == str(process.pid)


def test_a_killed_parent_takes_the_program_along() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT, *_WRAPPER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        program = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        assert ended(program)


def test_nothing_is_started_for_a_parent_that_is_gone() -> None:
    gone = subprocess.Popen(["/bin/true"])
    gone.wait()
    command = [*_WRAPPER, str(gone.pid), "/bin/echo", "started"]
    assert subprocess.run(command, capture_output=True, check=True, timeout=10).stdout == b""
