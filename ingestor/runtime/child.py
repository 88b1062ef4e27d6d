"""What every child process does first and last, whatever it is for.

Processes are forked: the supervisor has no thread and no event loop, so the state they inherit is
whole, they start in milliseconds, and the interpreter's and NumPy's memory is shared. A child
leaves signals to the supervisor, which speaks to it through the counter table, and dies with the
supervisor, however that ends. Its outcome, or the error that ended it, goes up a pipe.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Final

import msgspec

from ingestor.model.errors import ExitCode, IngestorError
from ingestor.runtime import log as logs
from ingestor.runtime.malloc import keep_freed_memory
from ingestor.runtime.signals import WANTED

_FORK: Final = multiprocessing.get_context("fork")
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_TIMERSLACK: Final = 29
_TIMER_SLACK_NS: Final = 1
"""The kernel may delay every sleep by this; its default of 50 us is half of a paced send."""

log = logging.getLogger(__name__)


class Outcome(msgspec.Struct, frozen=True):
    """How a process ended: its exit code, the sentence for people, and its report as JSON."""

    exit_code: int = ExitCode.OK
    error: str | None = None
    report: msgspec.Raw = msgspec.Raw(b"null")


@dataclass(frozen=True, slots=True)
class ChildPlan:
    """A process to start. `main` returns a report that msgspec can write, or None.

    When a process that `ends_run` has ended, however, the others are asked to stop. Without an
    `optional` one that failed the run goes on.
    """

    name: str
    main: Callable[[], object]
    cpus: tuple[int, ...] = ()
    log_level: str = "INFO"
    ends_run: bool = False
    optional: bool = False


@dataclass(slots=True)
class Child:
    """A started process, seen from the supervisor."""

    name: str
    process: BaseProcess
    outcomes: Connection
    outcome: Outcome | None = None

    @property
    def ended(self) -> bool:
        """Whether it has said how it ended, or died without a word."""
        return self.outcome is not None or self.process.exitcode is not None

    def collect(self) -> None:
        """Take its outcome from the pipe, if it is there."""
        if self.outcome is None and self.outcomes.poll():
            try:
                self.outcome = msgspec.json.decode(self.outcomes.recv_bytes(), type=Outcome)
            except EOFError:
                return


def start_child(plan: ChildPlan) -> Child:
    """Fork a process that runs the plan."""
    receive, send = _FORK.Pipe(duplex=False)
    process = _FORK.Process(target=_run, args=(plan, send, os.getpid()), name=plan.name)
    process.start()
    send.close()
    return Child(plan.name, process, receive)


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


def _run(plan: ChildPlan, outcomes: Connection, parent_pid: int) -> None:
    _arrange_with_the_kernel(parent_pid)
    keep_freed_memory()
    logs.configure(plan.name, plan.log_level)
    # What was imported is never garbage: going through it would stop the process for milliseconds.
    gc.freeze()
    outcome = _outcome_of(plan)
    logs.close()
    outcomes.send_bytes(msgspec.json.encode(outcome))
    outcomes.close()


def _outcome_of(plan: ChildPlan) -> Outcome:
    try:
        pin(plan.cpus)
        report = plan.main()
    except IngestorError as error:
        return Outcome(error.exit_code, str(error))
    except Exception as error:
        log.exception("ended by an error that is a fault of this program")
        return Outcome(ExitCode.INTERNAL, f"{plan.name}: {type(error).__name__}: {error}")
    return Outcome(report=msgspec.Raw(msgspec.json.encode(report)))


def _arrange_with_the_kernel(parent_pid: int) -> None:
    """Signals are the supervisor's business, its death is ours, and sleeps end on time."""
    for number in WANTED:
        signal.signal(number, signal.SIG_IGN)
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    libc.prctl(_PR_SET_TIMERSLACK, _TIMER_SLACK_NS)
    if os.getppid() != parent_pid:
        os._exit(ExitCode.CHILD_FAILED)
