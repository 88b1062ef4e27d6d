"""Runs a module with the wall clock set: ``at_another_time.py 2025-12-16T16:00Z python -m M ...``.

The clock goes on from there; the monotonic one stays. Processes that the module forks have it too.
"""

from __future__ import annotations

import datetime as dt
import runpy
import sys
import time


def set_clock(iso: str) -> None:
    """Have `time.time_ns` and `time.time` tell another time from now on."""
    ahead_ns = int(dt.datetime.fromisoformat(iso).timestamp()) * 10**9 - time.time_ns()
    real_ns = time.time_ns
    time.time_ns = lambda: real_ns() + ahead_ns
    time.time = lambda: time.time_ns() / 1e9


if __name__ == "__main__":
    # What lies beside this file is not what the module imports: `nats`, for one.
    del sys.path[0]
    set_clock(sys.argv[1])
    module, sys.argv[:] = sys.argv[4], sys.argv[4:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
