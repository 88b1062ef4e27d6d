"""What a run asks of its machine: CPUs and open files beforehand, then memory, pinning, timers.

And what the machine tells of a process.
"""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import signal
from pathlib import Path
from typing import Final

import msgspec

import ingestor
from ingestor.config.schema import Process
from ingestor.model.errors import ConfigurationError, IngestorError

MIN_OPEN_FILES: Final = 128
"""A process opens some 40: its log, rings, doorbell, sockets, the files of a feed, libraries."""

CPUS_FOR_SPINNING: Final = 4
"""Two feeds, the server, and the CPU that a publisher which never sleeps keeps for itself."""

KEPT_BYTES: Final = 64 * 1024 * 1024
"""Free memory at the top of the heap beyond this goes back to the kernel."""

MAPPED_FROM_BYTES: Final = 32 * 1024 * 1024
"""Only a buffer of this size gets a mapping of its own; glibc allows no larger threshold."""

_SUFFIX: Final = "_cpus"
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_M_TRIM_THRESHOLD: Final = -1  # malloc.h
_M_MMAP_THRESHOLD: Final = -3
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_PR_SET_TIMERSLACK: Final = 29
_TIMER_SLACK_NS: Final = 1
"""The kernel may delay every sleep by this; its default of 50 us is half of a paced send."""

log = logging.getLogger(__name__)


def checkout() -> Path | None:
    """Return the root of the checkout that this program runs from; None where it is installed."""
    root = Path(ingestor.__file__).resolve().parents[1]
    return root if (root / "bin" / "ingestor").is_file() else None


def program() -> str:
    """Return what one types to run this program here."""
    root = checkout()
    if root is None:
        return "ingestor"
    here = Path.cwd()
    return "bin/ingestor" if (here / "bin" / "ingestor").exists() else str(root / "bin/ingestor")


def stat_of(pid: int) -> list[str]:
    """Return the fields of proc_pid_stat(5) from the third on; none of a process that is gone."""
    try:
        # The name of the program stands in parentheses, and may hold anything.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def usage_of(pid: int) -> tuple[float, int] | None:
    """Return CPU seconds, user and system, and resident bytes; None of a process that is gone."""
    if not (fields := stat_of(pid)):
        return None
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S, int(fields[21]) * _PAGE_BYTES


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
    # Busy polling on a shared CPU takes whole time slices from the feed that is to wake it.
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


def pin(cpus: tuple[int, ...]) -> None:
    """Bind this process to CPUs; no CPUs leave it to the kernel.

    Raises IngestorError for a CPU that this machine does not have.
    """
    if not cpus:
        return
    try:
        os.sched_setaffinity(0, cpus)
    except OSError as error:
        there = sorted(os.sched_getaffinity(0))
        raise IngestorError(f"cannot be pinned to CPUs {list(cpus)}: there are {there}") from error


def die_with_parent(parent_pid: int) -> bool:
    """See to it that the death of the parent kills this process, and that its sleeps end on time.

    False when the parent has ended already: the kernel does not notice that any more.
    """
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    libc.prctl(_PR_SET_TIMERSLACK, _TIMER_SLACK_NS)
    return os.getppid() == parent_pid


def keep_freed_memory() -> bool:
    """Have freed memory stay with the process, for the next block; False where that cannot be.

    A run allocates and frees buffers of some hundred KiB thousands of times a second. By default
    glibc gives each back to the kernel at once (a mapping of its own, or the trimmed top of the
    heap) and every page of the next one is faulted in and zeroed anew: on a virtual machine that
    costs more than all that is done with the bytes. What is kept is bounded by what the run holds
    at its peak, which is bounded by rings and windows.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    kept = mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
    mapped = mallopt(_M_MMAP_THRESHOLD, MAPPED_FROM_BYTES)
    return bool(kept and mapped)
