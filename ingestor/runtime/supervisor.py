"""The supervisor: starts the processes of a run, watches them, and ends them in order.

It has no event loop and no thread. A tick is: take outcomes, look at heartbeats, hear signals.
The first SIGINT, SIGTERM or SIGHUP asks everybody to stop in order: feeds stop reading, the
publisher flushes what it has sent and reports. The second ends everything now. Where a run can read
its configuration again, that is what SIGHUP asks for, unless it says that the terminal is gone.

Nobody may hang for ever. A process that dies without a word, or gives no heartbeat for `silence_s`,
is started again where its plan says so, in its row of the table, and the others go on. Any other,
and one that has died more than `MAX_RESTARTS` times within a minute, ends the run: first in order,
and by force when that takes longer than `stop_s`. Time in which the supervisor itself did not run
(a suspended machine, SIGSTOP) counts for nobody.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

import msgspec
from setproctitle import setproctitle

from ingestor.model.errors import ExitCode, IngestorError
from ingestor.model.units import NS_PER_S
from ingestor.ring.block_ring import Doorbell
from ingestor.runtime import log as logs
from ingestor.runtime.counters import Counter, CounterTable
from ingestor.runtime.machine import die_with_parent, keep_freed_memory, pin
from ingestor.runtime.signals import EXIT_BASE, WANTED, has_terminal, noted, noting, take

_FORK: Final = multiprocessing.get_context("fork")

log = logging.getLogger(__name__)


class Outcome(msgspec.Struct, frozen=True):
    """How a process, or the whole run, ended: its exit code and the sentence for people.

    A `fatal` one stops the others; what is not is told when all have come to their end.
    """

    exit_code: int = ExitCode.OK
    error: str | None = None
    fatal: bool = False


@dataclass(frozen=True, slots=True)
class ChildPlan:
    """A process to start. An error that `main` returns lets the others go on; see `Outcome`.

    When a process that `ends_run` has ended, however, the others are asked to stop. Without an
    `optional` one that failed the run goes on. One that `restarts` is started again when it dies,
    and `with_it` those of these numbers, ended before `renew` is called and started after it.
    `wake` has one that sleeps look whether it is to stop.
    """

    name: str
    main: Callable[[], IngestorError | None]
    cpus: tuple[int, ...] = ()
    log_level: str = "INFO"
    ends_run: bool = False
    optional: bool = False
    restarts: bool = False
    with_it: tuple[int, ...] = ()
    renew: Callable[[], None] = lambda: None
    wake: Callable[[], None] = lambda: None


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
    # Forked, not spawned: no thread runs here, so what is inherited is whole, and nothing is
    # imported again.
    process = _FORK.Process(target=_run, args=(plan, send, os.getpid()), name=plan.name)
    process.start()
    # While the parent holds this end too, the death of the child closes no pipe.
    send.close()
    return Child(plan.name, process, receive)


def _run(plan: ChildPlan, outcomes: Connection, parent_pid: int) -> None:
    for number in WANTED:
        signal.signal(number, signal.SIG_IGN)
    if not die_with_parent(parent_pid):
        os._exit(ExitCode.CHILD_FAILED)
    setproctitle(f"ingestor: {plan.name}")
    with contextlib.suppress(OSError):
        # What `ps -o comm` and `top` show, cut to 15 characters by the kernel.
        Path("/proc/self/comm").write_text(plan.name)
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
        error = plan.main()
    except IngestorError as fatal:
        return Outcome(fatal.exit_code, str(fatal), fatal=True)
    except Exception as fault:
        log.exception("ended by an error that is a fault of this program")
        sentence = f"{plan.name}: {type(fault).__name__}: {fault}"
        return Outcome(ExitCode.INTERNAL, sentence, fatal=True)
    return Outcome() if error is None else Outcome(error.exit_code, str(error))


MAX_RESTARTS: Final = 5
"""Times within `RESTARTS_WITHIN_NS` that a process is started again; one more ends the run."""
RESTARTS_WITHIN_NS: Final = 60 * NS_PER_S
RESTART_SILENCE_S: Final = 5.0
"""A process that can be started again is given up after this silence, or `silence_s` if shorter."""
TICK_S: Final = 0.1
_KILLED_S: Final = 5.0
"""How long a killed process may take to be gone."""
MISSED_S: Final = 1.0
"""A tick that comes so late was missed: this process was stopped, and so were the others."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a process may be silent, how long an orderly stop may take, when to stop by itself.

    Without a `run_s` nothing but the processes and signals ends the run.
    """

    silence_s: float
    stop_s: float
    run_s: float | None = None


class Supervisor:
    """Runs one set of processes; process i of `plans` owns row i of `table`."""

    def __init__(
        self,
        plans: Sequence[ChildPlan],
        table: CounterTable,
        doorbell: Doorbell,
        limits: Limits,
    ) -> None:
        self._plans = plans
        self._table = table
        self._doorbell = doorbell
        self._limits = limits
        self._children: list[Child] = []
        self._deaths: list[list[tuple[int, str]]] = [[] for _ in plans]
        self._stop_by_ns: int | None = None
        self._end_ns: int | None = None
        self._looked_ns = 0
        self._woke_ns = 0
        self._forced = False
        self._failure: Outcome | None = None
        self._stopped_by: signal.Signals | None = None
        self._stopped_first = False
        self._reload: Callable[[], None] | None = None
        self._had_terminal = has_terminal()
        self.outcomes: dict[str, Outcome] = {}
        """How each process that has ended did, by its name."""

    @property
    def outcome(self) -> Outcome:
        """How the run ended: by the signal or the first failure, whichever came first.

        To be asked once everything is closed, since a signal may also come then.
        """
        broken = [self._failure] if self._failure else []
        # The process that ends the run knows what is stored: its word comes before the feeds'.
        for plan in sorted(self._plans, key=lambda plan: not plan.ends_run):
            ended = self.outcomes.get(plan.name)
            if ended is not None and ended.exit_code and not plan.optional:
                broken.append(ended)
        number = self._stopped_by or next(iter(noted()), None)
        if number is not None and (self._stopped_first or not broken):
            also = f"; also: {broken[0].error}" if broken else ""
            return Outcome(EXIT_BASE + number, f"{number.name}: stopped before the end{also}")
        return broken[0] if broken else Outcome()

    def run(
        self, tick: Callable[[], Outcome | None], reload: Callable[[], None] | None = None
    ) -> None:
        """Start everything and return when all processes have ended.

        `tick` is called every `TICK_S`; a failure it returns stops the run. SIGHUP calls `reload`;
        without one it stops the run.
        """
        self._reload = reload
        with noting():
            try:
                now_ns = self._looked_ns = time.monotonic_ns()
                if self._limits.run_s is not None:
                    self._end_ns = now_ns + int(self._limits.run_s * NS_PER_S)
                for index in range(len(self._plans)):
                    self._children.append(self._start_one(index, now_ns))
                # Until each has been looked at: one that has just died may be started again.
                while left := [one for one in self._children if one.name not in self.outcomes]:
                    wait([child.process.sentinel for child in left], TICK_S)
                    self._look(tick)
                self._look(tick)
            finally:
                self._kill()

    def _start_one(self, index: int, now_ns: int) -> Child:
        row = self._table.row(index)
        # Until it gives a sign of life itself, both are the same: it is starting.
        row[Counter.HEARTBEAT_NS] = row[Counter.STARTED_NS] = now_ns
        child = start_child(self._plans[index])
        row[Counter.PID] = child.process.pid or 0
        return child

    def _look(self, tick: Callable[[], Outcome | None]) -> None:
        logs.drain()
        self._forgive_missed_time()
        self._heed_signals()
        if self._end_ns is not None and time.monotonic_ns() >= self._end_ns:
            self._end_ns = None
            log.info("%g s are over: stopping in order", self._limits.run_s)
            self._stop()
        self._look_for_silence()
        for index, child in enumerate(self._children):
            self._look_at(index, child)
            if child.name in self.outcomes and not self._table.row(index)[Counter.ENDED]:
                self._table.row(index)[Counter.ENDED] = 1
                self._doorbell.ring()
                if self._plans[index].ends_run:
                    self._stop()
        failure = tick()
        if failure is not None:
            self._fail(failure)
        if self._stop_by_ns is not None and time.monotonic_ns() > self._stop_by_ns:
            self._force("the orderly stop took too long")

    def _forgive_missed_time(self) -> None:
        now_ns = time.monotonic_ns()
        missed_ns, self._looked_ns = now_ns - self._looked_ns, now_ns
        if missed_ns < MISSED_S * NS_PER_S:
            return
        self._woke_ns = now_ns
        if self._stop_by_ns is not None:
            # Time in which nobody ran counts for nobody.
            self._stop_by_ns += missed_ns
        log.warning("the run stood still for %.1f s", missed_ns / NS_PER_S)

    def _look_at(self, index: int, child: Child) -> None:
        if child.name in self.outcomes:
            return
        child.collect()
        if child.outcome is None and child.process.exitcode is not None:
            # It may have reported between the first look at the pipe and its end.
            child.collect()
            child.outcome = child.outcome or _died(child)
        if child.outcome is None or self._start_again(index, child):
            return
        self.outcomes[child.name] = child.outcome
        if not child.outcome.fatal:
            return
        if not self._plans[index].optional:
            self._fail(child.outcome)
        elif self._stop_by_ns is None:
            log.warning("%s; the run goes on without it", child.outcome.error)

    def _start_again(self, index: int, child: Child) -> bool:
        """Start another process in the place of one that died; False where that is not to be."""
        outcome, deaths = child.outcome, self._deaths[index]
        if outcome is None or outcome.exit_code != ExitCode.CHILD_FAILED or not outcome.fatal:
            return False
        if not self._plans[index].restarts or self._stop_by_ns is not None:
            return False
        now_ns = time.monotonic_ns()
        deaths.append((now_ns, outcome.error or ""))
        while deaths[0][0] < now_ns - RESTARTS_WITHIN_NS:
            del deaths[0]
        if len(deaths) > MAX_RESTARTS:
            causes = "; ".join(dict.fromkeys(cause for _, cause in deaths))
            child.outcome = Outcome(
                ExitCode.CHILD_FAILED,
                f"process {child.name} has died {len(deaths)} times within a minute: {causes}",
                fatal=True,
            )
            return False
        self._table.note_death(index, outcome.error or "")
        plan = self._plans[index]
        group = (*plan.with_it, index)
        for one in group:
            self._clear_away(one)
        plan.renew()
        for one in group:
            self._children[one] = self._start_one(one, time.monotonic_ns())
        pid = self._children[index].process.pid
        log.warning("%s: started again as pid %s", outcome.error, pid)
        return True

    def _clear_away(self, index: int) -> None:
        """End a process, if it has not, as if it had never been."""
        child = self._children[index]
        child.process.kill()
        child.process.join(_KILLED_S)
        child.outcomes.close()
        self.outcomes.pop(child.name, None)
        self._table.row(index)[Counter.ENDED] = 0

    def _look_for_silence(self) -> None:
        now_ns = time.monotonic_ns()
        for index, child in enumerate(self._children):
            limit_s = self._limits.silence_s
            # A short silence costs one that is started again little, and its data flows again.
            if self._plans[index].restarts:
                limit_s = min(limit_s, RESTART_SILENCE_S)
            # After a suspension every heartbeat is old: each gets a whole span to give one again.
            alive_ns = max(self._table.row(index)[Counter.HEARTBEAT_NS], self._woke_ns)
            if now_ns - alive_ns <= limit_s * NS_PER_S:
                continue
            child.collect()
            if not child.ended:
                child.outcome = Outcome(
                    ExitCode.CHILD_FAILED,
                    f"process {child.name} (pid {child.process.pid}) has given no sign of life"
                    f" for {limit_s:g} s",
                    fatal=True,
                )
                child.process.kill()

    def _fail(self, failure: Outcome) -> None:
        if self._failure is None:
            self._failure = failure
            log.error("%s", failure.error)
        self._stop(give_up=failure.exit_code == ExitCode.EMBEDDED_SERVER)

    def _stop(self, *, give_up: bool = False) -> None:
        """Ask everybody to stop; `give_up` says that nothing can be published any more."""
        if self._stop_by_ns is None:
            self._stop_by_ns = time.monotonic_ns() + int(self._limits.stop_s * NS_PER_S)
            self._table.stop(give_up=give_up)
            self._doorbell.ring()
            for plan in self._plans:
                plan.wake()

    def _heed_signals(self) -> None:
        if self._reload is not None and self._stop_by_ns is None and self._is_to_reload():
            self._reload()
        heard = noted()
        if heard and self._stopped_by is None:
            self._stopped_by = heard[0]
            self._stopped_first = self._failure is None
            log.warning(
                "%s: stopping in order, within %g s; once more stops now",
                *(heard[0].name, self._limits.stop_s),
            )
            self._stop()
        if len(heard) > 1 and not self._forced:
            self._forced = True
            self._force(f"{heard[1].name} again")

    def _is_to_reload(self) -> bool:
        # The kernel sends SIGHUP as well when a terminal is closed: then there is none any more.
        is_closed = signal.SIGHUP in noted() and self._had_terminal and not has_terminal()
        return not is_closed and take(signal.SIGHUP)

    def _force(self, reason: str) -> None:
        if any(not child.ended for child in self._children):
            log.error("%s: ending every process now", reason)
        self._kill()

    def _kill(self) -> None:
        for child in self._children:
            # One that has reported is about to exit by itself, and its pipe is read.
            if child.process.exitcode is None and child.outcome is None:
                child.process.kill()
            child.process.join(_KILLED_S)


def _died(child: Child) -> Outcome:
    code = child.process.exitcode or 0
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
    return Outcome(
        ExitCode.CHILD_FAILED, f"process {child.name} {how} without a report", fatal=True
    )
