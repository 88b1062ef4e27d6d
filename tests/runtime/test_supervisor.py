from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial

import pytest

from ingestor.model.errors import BadDataError, ExitCode
from ingestor.ring.doorbell import Doorbell
from ingestor.runtime.child import ChildPlan
from ingestor.runtime.counters import Counter, CounterTable
from ingestor.runtime.supervisor import Failure, Limits, RunResult, Supervisor

PATIENT = Limits(silence_s=30, stop_s=30)


class Run:
    """A supervisor over plain functions; process i is given the table and its row number."""

    def __init__(self, *mains: Callable[[CounterTable, int], object]) -> None:
        self.table = CounterTable(len(mains))
        self.plans = [
            ChildPlan(f"p{index}", partial(main, self.table, index))
            for index, main in enumerate(mains)
        ]

    def to_the_end(
        self, limits: Limits = PATIENT, tick: Callable[[], Failure | None] = lambda: None
    ) -> RunResult:
        return Supervisor(self.plans, self.table, Doorbell(), limits).run(tick)


def at_once(table: CounterTable, index: int) -> str:
    return f"report {index}"


def until_stopped(table: CounterTable, index: int) -> str:
    while not table.stopping:
        table.row(index)[Counter.HEARTBEAT_NS] = time.monotonic_ns()
        time.sleep(0.01)
    return "stopped in order"


def for_ever(table: CounterTable, index: int) -> None:
    while True:
        table.row(index)[Counter.HEARTBEAT_NS] = time.monotonic_ns()
        time.sleep(0.01)


def without_a_sign_of_life(table: CounterTable, index: int) -> None:
    signal.pause()


def dying(table: CounterTable, index: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def breaking(table: CounterTable, index: int) -> None:
    raise BadDataError("it broke")


def reports(result: RunResult) -> dict[str, bytes]:
    return {name: bytes(outcome.report) for name, outcome in result.outcomes.items()}


def signals_after_start(*numbers: signal.Signals) -> Callable[[], None]:
    """A tick that sends this process the next signal each time it is called."""
    left = list(numbers)

    def tick() -> None:
        if left:
            os.kill(os.getpid(), left.pop(0))

    return tick


def test_a_run_ends_when_every_process_has_reported() -> None:
    result = Run(at_once, at_once).to_the_end()
    assert reports(result) == {"p0": b'"report 0"', "p1": b'"report 1"'}
    assert result.failure is None
    assert result.stopped_by is None


def test_a_process_that_dies_without_a_word_stops_the_others_in_order() -> None:
    result = Run(dying, until_stopped).to_the_end()
    assert result.failure is not None
    assert result.failure.exit_code == ExitCode.CHILD_FAILED
    assert result.failure.sentence == "process p0 was killed by SIGKILL without a report"
    assert reports(result)["p1"] == b'"stopped in order"'


def test_an_error_stops_the_others_and_is_the_failure_of_the_run() -> None:
    result = Run(until_stopped, breaking).to_the_end()
    assert result.failure is not None
    assert (result.failure.exit_code, result.failure.sentence) == (ExitCode.BAD_DATA, "it broke")
    assert reports(result)["p0"] == b'"stopped in order"'


def test_a_silent_process_is_ended_and_named() -> None:
    result = Run(without_a_sign_of_life, until_stopped).to_the_end(Limits(0.3, 30))
    assert result.failure is not None
    assert result.failure.sentence.startswith("process p0 (pid ")
    assert result.failure.sentence.endswith("has given no sign of life for 0.3 s")
    assert reports(result)["p1"] == b'"stopped in order"'


def test_a_process_that_does_not_stop_in_time_is_ended() -> None:
    result = Run(for_ever, breaking).to_the_end(Limits(30, 0.2))
    assert result.failure is not None
    assert result.failure.sentence == "it broke"
    assert result.outcomes["p0"].error == "process p0 was killed by SIGKILL without a report"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_stops_everybody_in_order(number: signal.Signals) -> None:
    result = Run(until_stopped, until_stopped).to_the_end(tick=signals_after_start(number))
    assert result.stopped_by == number
    assert result.stopped_first
    assert result.failure is None
    assert set(reports(result).values()) == {b'"stopped in order"'}


def test_the_second_signal_ends_everything_now() -> None:
    tick = signals_after_start(signal.SIGINT, signal.SIGTERM)
    result = Run(for_ever).to_the_end(tick=tick)
    assert result.stopped_by == signal.SIGINT
    assert result.outcomes["p0"].exit_code == ExitCode.CHILD_FAILED


def test_signals_go_where_they_went_before_when_the_run_is_over() -> None:
    before = signal.getsignal(signal.SIGINT)
    Run(at_once).to_the_end()
    assert signal.getsignal(signal.SIGINT) is before


def test_what_the_watcher_finds_wrong_stops_the_run() -> None:
    gone = Failure(ExitCode.EMBEDDED_SERVER, "the server is gone")
    run = Run(until_stopped)
    assert run.to_the_end(tick=lambda: gone).failure == gone
    assert run.table.giving_up


def test_a_process_that_ends_the_run_stops_the_others_also_when_all_is_well() -> None:
    run = Run(until_stopped, at_once)
    run.plans[1] = ChildPlan("p1", run.plans[1].main, ends_run=True)
    result = run.to_the_end()
    assert reports(result) == {"p0": b'"stopped in order"', "p1": b'"report 1"'}
    assert result.failure is None


def test_a_run_whose_time_is_over_stops_in_order_and_is_no_failure() -> None:
    began = time.monotonic()
    result = Run(until_stopped, until_stopped).to_the_end(Limits(30, 30, run_s=0.4))
    assert 0.4 <= time.monotonic() - began < 5
    assert set(reports(result).values()) == {b'"stopped in order"'}
    assert (result.failure, result.stopped_by) == (None, None)


def until_the_first_has_ended(table: CounterTable, index: int) -> str:
    while not table.row(0)[Counter.ENDED]:
        table.row(index)[Counter.HEARTBEAT_NS] = time.monotonic_ns()
        time.sleep(0.01)
    return f"nobody else: {not table.row(index)[Counter.ENDED]}"


@pytest.mark.parametrize("first", [at_once, dying])
def test_everybody_sees_that_a_process_has_ended_however_it_did(
    first: Callable[[CounterTable, int], object],
) -> None:
    result = Run(first, until_the_first_has_ended).to_the_end()
    assert reports(result)["p1"] == b'"nobody else: True"'


@pytest.mark.parametrize("main", [breaking, dying, without_a_sign_of_life])
def test_the_run_goes_on_without_an_optional_process(
    main: Callable[[CounterTable, int], object], caplog: pytest.LogCaptureFixture
) -> None:
    def a_little_later(table: CounterTable, index: int) -> str:
        for _ in range(20):
            table.row(index)[Counter.HEARTBEAT_NS] = time.monotonic_ns()
            time.sleep(0.05)
        return "stopped" if table.stopping else "done"

    run = Run(a_little_later, main)
    run.plans[1] = ChildPlan("p1", run.plans[1].main, optional=True)
    result = run.to_the_end(Limits(silence_s=0.5, stop_s=30))
    assert result.failure is None
    assert reports(result)["p0"] == b'"done"'
    assert "the run goes on without it" in caplog.text
