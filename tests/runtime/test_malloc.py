"""Freed memory is kept: a buffer that comes again costs no page faults."""

from __future__ import annotations

import resource
import subprocess
import sys

BUFFER_BYTES = 262_144
TIMES = 200
PROGRAM = f"""
import resource, sys
from ingestor.runtime.malloc import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({TIMES}):
    buffers = [letter * {BUFFER_BYTES} for letter in (b"a", b"b", b"c")]
    del buffers
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    command = [sys.executable, "-c", PROGRAM, how]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_buffers_that_come_and_go_are_not_faulted_in_each_time() -> None:
    pages = 3 * BUFFER_BYTES // resource.getpagesize()
    assert faults("kept") < 3 * pages
    assert faults("as it is") > TIMES * pages / 4
