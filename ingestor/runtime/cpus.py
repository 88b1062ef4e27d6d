"""The CPUs that processes are to be pinned to must be there, before anything is started."""

from __future__ import annotations

import os
from typing import Final

import msgspec

from ingestor.config.schema import Process
from ingestor.errors import ConfigurationError

_SUFFIX: Final = "_cpus"


def check_cpus(process: Process) -> None:
    """Raise `ConfigurationError` for the first setting that names a CPU we cannot have."""
    there = os.sched_getaffinity(0)
    for name, cpus in msgspec.structs.asdict(process).items():
        if name.endswith(_SUFFIX) and not there.issuperset(cpus):
            allowed = ", ".join(str(cpu) for cpu in sorted(there))
            raise ConfigurationError(
                f"process.{name} = {list(cpus)} is not allowed: not all of them are there;"
                f" allowed: {allowed}"
            )
