"""The supervisor: starts the processes of a run, watches them, and ends them in order.

It has no event loop and no thread. A tick is: take outcomes, look at heartbeats, hear signals.
The first SIGINT, SIGTERM or SIGHUP asks everybody to stop in order: feeds stop reading, the
publisher flushes what it has sent and reports. The second ends everything now.

Nobody may hang for ever. A feed that dies without a word, or any process that gives no heartbeat
for `silence_s`, ends the run: first in order, and by force when that takes longer than `stop_s`.
Time in which the supervisor itself did not run (a suspended machine, SIGSTOP) counts for nobody.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import Final

from ingestor.model.errors import ExitCode
from ingestor.model.units import NS_PER_S
from ingestor.ring.doorbell import Doorbell
from ingestor.runtime import log as logs
from ingestor.runtime.child import Child, ChildPlan, Outcome, start_child
from ingestor.runtime.counters import Counter, CounterTable
from ingestor.runtime.signals import noted, noting

TICK_S: Final = 0.1
_KILLED_S: Final = 5.0
"""How long a killed process may take to be gone."""
MISSED_S: Final = 1.0
"""A tick that comes so late was missed: this process was stopped, and so were the others."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a process may be silent, how long an orderly stop may take, when to stop by itself.

    Without a `run_s` nothing but the processes and signals ends the run.
    """

    silence_s: float
    stop_s: float
    run_s: float | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """The first thing that went wrong."""

    exit_code: int
    sentence: str


@dataclass(slots=True)
class RunResult:
    """Outcomes by process name, the first failure, and the signal that stopped the run.

    `stopped_first` says that there was no failure before the signal.
    """

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    failure: Failure | None = None
    stopped_by: signal.Signals | None = None
    stopped_first: bool = False


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
        self._stop_by_ns: int | None = None
        self._end_ns: int | None = None
        self._looked_ns = 0
        self._woke_ns = 0
        self._forced = False
        self._result = RunResult()

    def run(self, tick: Callable[[], Failure | None]) -> RunResult:
        """Start everything and return when all processes have ended.

        `tick` is called every `TICK_S`; a failure it returns stops the run.
        """
        with noting():
            try:
                self._start()
                while not all(child.ended for child in self._children):
                    wait([child.process.sentinel for child in self._running()], TICK_S)
                    self._look(tick)
                self._look(tick)
            finally:
                self._kill()
        return self._result

    def _start(self) -> None:
        now_ns = self._looked_ns = time.monotonic_ns()
        if self._limits.run_s is not None:
            self._end_ns = now_ns + int(self._limits.run_s * NS_PER_S)
        for index, plan in enumerate(self._plans):
            self._table.row(index)[Counter.HEARTBEAT_NS] = now_ns
            self._children.append(start_child(plan))

    def _running(self) -> list[Child]:
        return [child for child in self._children if not child.ended]

    def _look(self, tick: Callable[[], Failure | None]) -> None:
        logs.drain()
        self._forgive_missed_time()
        self._heed_signals()
        self._heed_time()
        for index, child in enumerate(self._children):
            self._look_at(index, child)
            if child.ended and not self._table.row(index)[Counter.ENDED]:
                self._note_end(index)
        self._look_for_silence()
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
            self._stop_by_ns += missed_ns
        log.warning("the run stood still for %.1f s", missed_ns / NS_PER_S)

    def _look_at(self, index: int, child: Child) -> None:
        if child.name in self._result.outcomes:
            return
        child.collect()
        if child.outcome is None and child.process.exitcode is not None:
            child.collect()
            child.outcome = child.outcome or _died(child)
        if child.outcome is None:
            return
        self._result.outcomes[child.name] = child.outcome
        if child.outcome.exit_code != ExitCode.OK:
            reason = child.outcome.error or "no reason given"
            self._blame(index, child.outcome.exit_code, reason)

    def _note_end(self, index: int) -> None:
        self._table.row(index)[Counter.ENDED] = 1
        self._doorbell.ring()
        if self._plans[index].ends_run:
            self._stop()

    def _look_for_silence(self) -> None:
        oldest_ns = time.monotonic_ns() - int(self._limits.silence_s * NS_PER_S)
        for index, child in enumerate(self._children):
            row = self._table.row(index)
            alive_ns = max(row[Counter.HEARTBEAT_NS], self._woke_ns)
            if not child.ended and alive_ns < oldest_ns:
                self._blame(
                    index,
                    ExitCode.CHILD_FAILED,
                    f"process {child.name} (pid {child.process.pid}) has given no sign of life"
                    f" for {self._limits.silence_s:g} s",
                )
                child.process.kill()

    def _blame(self, index: int, exit_code: int, sentence: str) -> None:
        if not self._plans[index].optional:
            self._fail(Failure(exit_code, sentence))
        elif self._stop_by_ns is None:
            log.warning("%s; the run goes on without it", sentence)

    def _fail(self, failure: Failure) -> None:
        if self._result.failure is None:
            self._result.failure = failure
            log.error("%s", failure.sentence)
        self._stop(give_up=failure.exit_code == ExitCode.EMBEDDED_SERVER)

    def _stop(self, *, give_up: bool = False) -> None:
        """Ask everybody to stop; `give_up` says that nothing can be published any more."""
        if self._stop_by_ns is None:
            self._stop_by_ns = time.monotonic_ns() + int(self._limits.stop_s * NS_PER_S)
            self._table.stop(give_up=give_up)
            self._doorbell.ring()

    def _heed_time(self) -> None:
        if self._end_ns is not None and time.monotonic_ns() >= self._end_ns:
            self._end_ns = None
            log.info("%g s are over: stopping in order", self._limits.run_s)
            self._stop()

    def _heed_signals(self) -> None:
        heard = noted()
        if heard and self._result.stopped_by is None:
            self._result.stopped_by = heard[0]
            self._result.stopped_first = self._result.failure is None
            log.warning(
                "%s: stopping in order, within %g s; once more stops now",
                *(heard[0].name, self._limits.stop_s),
            )
            self._stop()
        if len(heard) > 1 and not self._forced:
            self._forced = True
            self._force(f"{heard[1].name} again")

    def _force(self, reason: str) -> None:
        if self._running():
            log.error("%s: ending every process now", reason)
        self._kill()

    def _kill(self) -> None:
        for child in self._children:
            if child.process.exitcode is None and child.outcome is None:
                child.process.kill()
            child.process.join(_KILLED_S)


def _died(child: Child) -> Outcome:
    code = child.process.exitcode or 0
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
    return Outcome(ExitCode.CHILD_FAILED, f"process {child.name} {how} without a report")
