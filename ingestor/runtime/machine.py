"""What a run needs of its machine, looked at before anything is started: CPUs and open files."""

from __future__ import annotations

import logging
import os
import resource
from typing import Final

import msgspec

from ingestor.config.schema import Process
from ingestor.model.errors import ConfigurationError

MIN_OPEN_FILES: Final = 128
"""A process opens some 40: its log, rings, doorbell, sockets, the files of a feed, libraries."""

CPUS_FOR_SPINNING: Final = 4
"""Two feeds, the server, and the CPU that a publisher which never sleeps keeps for itself."""

_SUFFIX: Final = "_cpus"

log = logging.getLogger(__name__)


def check_machine(process: Process) -> None:
    """Raise `ConfigurationError` for what this machine does not allow."""
    _check_cpus(process)
    _check_spinning(process)
    _check_open_files()


def _named(process: Process) -> dict[str, tuple[int, ...]]:
    settings = msgspec.structs.asdict(process)
    return {name: cpus for name, cpus in settings.items() if name.endswith(_SUFFIX)}


def _check_cpus(process: Process) -> None:
    there = os.sched_getaffinity(0)
    for name, cpus in _named(process).items():
        if not there.issuperset(cpus):
            allowed = ", ".join(str(cpu) for cpu in sorted(there))
            raise ConfigurationError(
                f"process.{name} = {list(cpus)} is not allowed: not all of them are there;"
                f" allowed: {allowed}"
            )


def _check_spinning(process: Process) -> None:
    """A publisher that never sleeps takes from whom it shares its CPU with, 100 ms at a time."""
    if not process.publisher_spins:
        return
    there = os.sched_getaffinity(0)
    others = (cpus for name, cpus in _named(process).items() if name != "publisher_cpus")
    own = set(process.publisher_cpus or there).difference(*others)
    if not own or len(there) == 1:
        raise ConfigurationError(
            "process.publisher_spins = true is not allowed: it needs a CPU that no other process"
            f" of the run has, and of {', '.join(map(str, sorted(there)))} there is none"
        )
    if not process.publisher_cpus and len(there) < CPUS_FOR_SPINNING:
        log.warning(
            "process.publisher_spins = true with %d CPUs stalls whatever shares one with the"
            " publisher: name process.publisher_cpus, or leave it out",
            len(there),
        )


def _check_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= MIN_OPEN_FILES or soft == resource.RLIM_INFINITY:
        return
    if hard != resource.RLIM_INFINITY and hard < MIN_OPEN_FILES:
        raise ConfigurationError(
            f"a process may open only {hard} files here (ulimit -n); at least {MIN_OPEN_FILES}"
            " are needed"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (MIN_OPEN_FILES, hard))
