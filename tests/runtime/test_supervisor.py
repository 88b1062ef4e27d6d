from __future__ import annotations

import gc
import logging
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from ingestor.model.errors import BadDataError, ExitCode, IngestorError, NatsUnreachableError
from ingestor.ring.block_ring import Doorbell
from ingestor.runtime import supervisor
from ingestor.runtime.counters import Counter, CounterTable
from ingestor.runtime.machine import pin
from ingestor.runtime.signals import noted
from ingestor.runtime.supervisor import (
    MAX_RESTARTS,
    Child,
    ChildPlan,
    Limits,
    Outcome,
    Supervisor,
    start_child,
)


def ended_saying(find: Callable[[], object], cpus: tuple[int, ...] = ()) -> str | None:
    """Return what a process finds, which it says as its error."""
    outcome = ended(lambda: IngestorError(str(find())), cpus).outcome
    assert outcome is not None
    return outcome.error


def ended(main: Callable[[], IngestorError | None], cpus: tuple[int, ...] = ()) -> Child:
    child = start_child(ChildPlan("probe", main, cpus))
    child.process.join(10)
    child.collect()
    return child


def test_a_process_without_an_error_says_so() -> None:
    assert ended(lambda: None).outcome == Outcome(ExitCode.OK, None)


def test_an_error_that_was_returned_is_not_fatal() -> None:
    outcome = ended(lambda: BadDataError("the day is cut")).outcome
    assert outcome == Outcome(ExitCode.BAD_DATA, "the day is cut", fatal=False)


def test_an_error_of_ours_comes_back_as_its_sentence_and_exit_code() -> None:
    def main() -> None:
        raise BadDataError("day.dbn is not DBN")

    outcome = ended(main).outcome
    assert outcome == Outcome(ExitCode.BAD_DATA, "day.dbn is not DBN", fatal=True)


def test_any_other_error_names_itself_and_is_a_fault_of_the_program() -> None:
    def main() -> None:
        raise ZeroDivisionError("by zero")

    sentence = "probe: ZeroDivisionError: by zero"
    assert ended(main).outcome == Outcome(ExitCode.INTERNAL, sentence, fatal=True)


def test_a_process_that_dies_without_a_word_has_ended_without_an_outcome() -> None:
    child = ended(lambda: os._exit(7))
    assert child.ended
    assert child.outcome is None
    assert child.process.exitcode == 7


def test_signals_of_the_terminal_do_not_reach_a_child() -> None:
    def main() -> str:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        return "alive"

    assert ended_saying(main) == "alive"


def test_a_child_dies_with_its_parent(tmp_path: object) -> None:
    read, write = os.pipe()
    middle = os.fork()
    if middle == 0:
        start_child(ChildPlan("orphan", signal.pause))
        os.close(read)
        os.kill(os.getpid(), signal.SIGKILL)
    os.close(write)
    os.waitpid(middle, 0)
    assert os.read(read, 1) == b"", "the pipe closes when the last process that holds it is gone"
    os.close(read)


def test_a_child_is_pinned_to_its_cpus() -> None:
    cpu = min(os.sched_getaffinity(0))
    assert ended_saying(lambda: sorted(os.sched_getaffinity(0)), cpus=(cpu,)) == f"[{cpu}]"


def test_a_cpu_that_is_not_there_is_an_error_that_names_those_there_are() -> None:
    with pytest.raises(IngestorError, match=r"CPUs \[4000\]: there are \[0"):
        pin((4000,))


def test_a_child_logs_under_its_own_name(capfd: pytest.CaptureFixture[str]) -> None:
    ended(lambda: logging.getLogger("x").warning("hello"))
    assert " WARNING probe: hello" in capfd.readouterr().err


def test_sleeps_of_a_child_end_on_time() -> None:
    assert ended_saying(lambda: Path("/proc/self/timerslack_ns").read_text().strip()) == "1"


def test_collections_pass_over_what_was_there_before_the_process() -> None:
    before = gc.get_freeze_count()
    assert int(ended_saying(gc.get_freeze_count) or 0) > 10_000
    assert gc.get_freeze_count() == before


PATIENT = Limits(silence_s=30, stop_s=30)


Main = Callable[[CounterTable, int], IngestorError | None]


class Run:
    """A supervisor over plain functions; process i is given the table and its row number."""

    def __init__(self, *mains: Main) -> None:
        self.table = CounterTable(len(mains))
        self.plans = [
            ChildPlan(f"p{index}", partial(main, self.table, index))
            for index, main in enumerate(mains)
        ]

    def to_the_end(
        self,
        limits: Limits = PATIENT,
        tick: Callable[[], Outcome | None] = lambda: None,
        reload: Callable[[], None] | None = None,
    ) -> Supervisor:
        supervisor = Supervisor(self.plans, self.table, Doorbell(), limits)
        supervisor.run(tick, reload)
        return supervisor


class SaidError(IngestorError):
    """What a process has to say at its end, which is no failure."""

    exit_code = ExitCode.OK


def at_once(table: CounterTable, index: int) -> IngestorError:
    return SaidError(f"process {index}")


def until_stopped(table: CounterTable, index: int) -> IngestorError:
    while not table.stopping:
        table.row(index)[Counter.HEARTBEAT_NS] = time.monotonic_ns()
        time.sleep(0.01)
    return SaidError("stopped in order")


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


def said(run: Supervisor) -> dict[str, str | None]:
    """What each process that ended by itself said."""
    return {name: one.error for name, one in run.outcomes.items() if not one.fatal}


def signals_after_start(*numbers: signal.Signals) -> Callable[[], None]:
    """A tick that sends this process the next signal each time it is called."""
    left = list(numbers)

    def tick() -> None:
        if left:
            os.kill(os.getpid(), left.pop(0))

    return tick


def test_a_run_ends_when_every_process_has_reported() -> None:
    result = Run(at_once, at_once).to_the_end()
    assert said(result) == {"p0": "process 0", "p1": "process 1"}
    assert result.outcome == Outcome()


def test_a_process_that_dies_without_a_word_stops_the_others_in_order() -> None:
    result = Run(dying, until_stopped).to_the_end()
    assert result.outcome.exit_code == ExitCode.CHILD_FAILED
    assert result.outcome.error == "process p0 was killed by SIGKILL without a report"
    assert said(result)["p1"] == "stopped in order"


def test_an_error_stops_the_others_and_is_the_failure_of_the_run() -> None:
    result = Run(until_stopped, breaking).to_the_end()
    assert (result.outcome.exit_code, result.outcome.error) == (ExitCode.BAD_DATA, "it broke")
    assert said(result)["p0"] == "stopped in order"


def test_a_silent_process_is_ended_and_named() -> None:
    result = Run(without_a_sign_of_life, until_stopped).to_the_end(Limits(0.3, 30))
    assert result.outcome.error is not None
    assert result.outcome.error.startswith("process p0 (pid ")
    assert result.outcome.error.endswith("has given no sign of life for 0.3 s")
    assert said(result)["p1"] == "stopped in order"


def test_a_process_that_does_not_stop_in_time_is_ended() -> None:
    result = Run(for_ever, breaking).to_the_end(Limits(30, 0.2))
    assert result.outcome.error == "it broke"
    assert result.outcomes["p0"].error == "process p0 was killed by SIGKILL without a report"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_stops_everybody_in_order(number: signal.Signals) -> None:
    result = Run(until_stopped, until_stopped).to_the_end(tick=signals_after_start(number))
    assert result.outcome == Outcome(128 + number, f"{number.name}: stopped before the end")
    assert set(said(result).values()) == {"stopped in order"}


def test_a_run_that_can_read_its_settings_again_does_so_and_goes_on() -> None:
    reloads: list[list[signal.Signals]] = []
    tick = signals_after_start(signal.SIGHUP)

    def reload() -> None:
        reloads.append(noted())
        os.kill(os.getpid(), signal.SIGTERM)

    result = Run(until_stopped).to_the_end(tick=tick, reload=reload)
    assert reloads == [[]]
    assert result.outcome == Outcome(143, "SIGTERM: stopped before the end")


def test_a_terminal_that_was_closed_stops_a_run_that_could_read_its_settings_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = iter([True, False, False])
    monkeypatch.setattr(supervisor, "has_terminal", lambda: next(answers))
    reloads: list[int] = []
    tick = signals_after_start(signal.SIGHUP)
    result = Run(until_stopped).to_the_end(tick=tick, reload=lambda: reloads.append(1))
    assert (result.outcome.exit_code, reloads) == (129, [])


def test_the_second_signal_ends_everything_now() -> None:
    tick = signals_after_start(signal.SIGINT, signal.SIGTERM)
    result = Run(for_ever).to_the_end(tick=tick)
    assert result.outcome.exit_code == 128 + signal.SIGINT
    assert result.outcomes["p0"].exit_code == ExitCode.CHILD_FAILED


def test_signals_go_where_they_went_before_when_the_run_is_over() -> None:
    before = signal.getsignal(signal.SIGINT)
    Run(at_once).to_the_end()
    assert signal.getsignal(signal.SIGINT) is before


def test_what_the_watcher_finds_wrong_stops_the_run() -> None:
    gone = Outcome(ExitCode.EMBEDDED_SERVER, "the server is gone", fatal=True)
    run = Run(until_stopped)
    assert run.to_the_end(tick=lambda: gone).outcome == gone
    assert run.table.giving_up


def test_a_process_that_ends_the_run_stops_the_others_also_when_all_is_well() -> None:
    run = Run(until_stopped, at_once)
    run.plans[1] = ChildPlan("p1", run.plans[1].main, ends_run=True)
    result = run.to_the_end()
    assert said(result) == {"p0": "stopped in order", "p1": "process 1"}
    assert result.outcome == Outcome()


def test_a_run_whose_time_is_over_stops_in_order_and_is_no_failure() -> None:
    began = time.monotonic()
    result = Run(until_stopped, until_stopped).to_the_end(Limits(30, 30, run_s=0.4))
    assert 0.4 <= time.monotonic() - began < 5
    assert set(said(result).values()) == {"stopped in order"}
    assert result.outcome == Outcome()


def until_the_first_has_ended(table: CounterTable, index: int) -> IngestorError:
    while not table.row(0)[Counter.ENDED]:
        table.row(index)[Counter.HEARTBEAT_NS] = time.monotonic_ns()
        time.sleep(0.01)
    return SaidError(f"nobody else: {not table.row(index)[Counter.ENDED]}")


@pytest.mark.parametrize("first", [at_once, dying])
def test_everybody_sees_that_a_process_has_ended_however_it_did(
    first: Main,
) -> None:
    result = Run(first, until_the_first_has_ended).to_the_end()
    assert said(result)["p1"] == "nobody else: True"


@pytest.mark.parametrize("main", [breaking, dying, without_a_sign_of_life])
def test_the_run_goes_on_without_an_optional_process(
    main: Main, caplog: pytest.LogCaptureFixture
) -> None:
    def a_little_later(table: CounterTable, index: int) -> IngestorError:
        for _ in range(20):
            table.row(index)[Counter.HEARTBEAT_NS] = time.monotonic_ns()
            time.sleep(0.05)
        return SaidError("stopped" if table.stopping else "done")

    run = Run(a_little_later, main)
    run.plans[1] = ChildPlan("p1", run.plans[1].main, optional=True)
    result = run.to_the_end(Limits(silence_s=0.5, stop_s=30))
    assert result.outcome == Outcome()
    assert said(result)["p0"] == "done"
    assert "the run goes on without it" in caplog.text


def dying_times(times: int, how: Main) -> Main:
    """A process that dies, and whose followers do, before one of them reports."""

    def main(table: CounterTable, index: int) -> IngestorError | None:
        if table.row(index)[Counter.RESTARTS] < times:
            return how(table, index)
        return SaidError(f"died {times} times: {table.cause_of_death(index)}")

    return main


def restarting(*mains: Main) -> Run:
    """A run whose first process is started again when it dies."""
    run = Run(*mains)
    run.plans[0] = ChildPlan("p0", run.plans[0].main, restarts=True)
    return run


def until_the_first_has_reported(table: CounterTable, index: int) -> IngestorError:
    until_the_first_has_ended(table, index)
    return SaidError("stopped" if table.stopping else "nobody stopped it")


@pytest.mark.parametrize("times", [1, MAX_RESTARTS])
def test_a_process_that_dies_is_started_again_and_the_others_go_on(times: int) -> None:
    run = restarting(dying_times(times, dying), until_the_first_has_reported)
    result = run.to_the_end()
    cause = "process p0 was killed by SIGKILL without a report"
    assert said(result) == {"p0": f"died {times} times: {cause}", "p1": "nobody stopped it"}
    assert result.outcome == Outcome()
    assert run.table.row(0)[Counter.RESTARTS] == times


def test_what_goes_with_a_process_is_started_again_with_it_once_all_of_them_are_gone() -> None:
    """The third one has ended long since."""

    def renewed(table: CounterTable, index: int) -> IngestorError:
        return SaidError(f"renewed {table.row(index)[Counter.RECORDS]} times")

    def until_renewed(table: CounterTable, index: int) -> IngestorError:
        table.row(index)[Counter.FRAMES] = os.getpid()
        while not table.row(index)[Counter.RECORDS]:
            table.row(index)[Counter.HEARTBEAT_NS] = time.monotonic_ns()
            time.sleep(0.01)
        return renewed(table, index)

    def dying_when_the_third_has_ended(table: CounterTable, index: int) -> None:
        while not (table.row(2)[Counter.ENDED] and table.row(1)[Counter.FRAMES]):
            table.row(index)[Counter.HEARTBEAT_NS] = time.monotonic_ns()
            time.sleep(0.01)
        dying(table, index)

    run = Run(dying_times(1, dying_when_the_third_has_ended), until_renewed, renewed)

    def renew() -> None:
        assert not Path(f"/proc/{run.table.row(1)[Counter.FRAMES]}").exists()
        for index in (1, 2):
            assert not run.table.row(index)[Counter.ENDED]
            run.table.row(index).add(Counter.RECORDS)

    run.plans[0] = ChildPlan("p0", run.plans[0].main, restarts=True, with_it=(1, 2), renew=renew)
    assert said(run.to_the_end()) == {
        "p0": "died 1 times: process p0 was killed by SIGKILL without a report",
        "p1": "renewed 1 times",
        "p2": "renewed 1 times",
    }
    assert [run.table.row(index)[Counter.RESTARTS] for index in range(3)] == [1, 0, 0]


def test_a_silent_process_is_started_again_whether_it_still_runs_or_is_stopped() -> None:
    def stopping_itself(table: CounterTable, index: int) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)

    for how in (without_a_sign_of_life, stopping_itself):
        result = restarting(dying_times(1, how)).to_the_end(Limits(0.3, 30))
        assert "has given no sign of life for 0.3 s" in (said(result)["p0"] or "")
        assert result.outcome == Outcome()


def test_a_process_that_dies_once_more_ends_the_run_with_every_cause() -> None:
    def differently(table: CounterTable, index: int) -> None:
        os._exit(10 + table.row(index)[Counter.RESTARTS] % 2)

    result = restarting(differently, until_stopped).to_the_end()
    assert result.outcome == Outcome(
        ExitCode.CHILD_FAILED,
        "process p0 has died 6 times within a minute: process p0 exited with 10 without a report;"
        " process p0 exited with 11 without a report",
        fatal=True,
    )
    assert said(result)["p1"] == "stopped in order"


def test_a_process_that_reports_an_error_or_dies_while_the_run_stops_is_not_started_again() -> None:
    def dying_when_stopped(table: CounterTable, index: int) -> None:
        until_stopped(table, index)
        dying(table, index)

    for how in (breaking, dying_when_stopped):
        run = restarting(how, breaking)
        assert run.to_the_end().outcome.error == "it broke"
        assert run.table.row(0)[Counter.RESTARTS] == 0


BROKEN = BadDataError("the file is cut")
NO_SERVER = NatsUnreachableError("no server")
DEAD = Outcome(ExitCode.CHILD_FAILED, "a process is dead", fatal=True)


def ending_with(error: IngestorError | None) -> Main:
    def main(table: CounterTable, index: int) -> IngestorError | None:
        until_stopped(table, index)
        return error

    return main


class Ticks:
    """Sends signals and finds a failure, in the order in which they stand; then tells to stop."""

    def __init__(self, run: Run, *what: signal.Signals | Outcome) -> None:
        self._run, self._left = run, list(what)

    def __call__(self) -> Outcome | None:
        what = self._left.pop(0) if self._left else None
        if isinstance(what, signal.Signals):
            os.kill(os.getpid(), what)
            return None
        if what is None:
            self._run.table.stop()
        return what


@pytest.mark.parametrize(
    ("errors", "happens", "exit_code", "error"),
    [
        ((BROKEN, NO_SERVER), [DEAD], ExitCode.CHILD_FAILED, "a process is dead"),
        ((BROKEN, NO_SERVER), [], ExitCode.NATS_UNREACHABLE, "no server"),
        ((BROKEN, None), [], ExitCode.BAD_DATA, "the file is cut"),
        ((None, None), [DEAD, signal.SIGTERM], ExitCode.CHILD_FAILED, "a process is dead"),
        (
            (BROKEN, None),
            [signal.SIGTERM, DEAD],
            143,
            "SIGTERM: stopped before the end; also: a process is dead",
        ),
        (
            (BROKEN, None),
            [signal.SIGHUP],
            129,
            "SIGHUP: stopped before the end; also: the file is cut",
        ),
        ((None, None), [signal.SIGINT], 130, "SIGINT: stopped before the end"),
    ],
)
def test_the_exit_code_is_that_of_the_signal_or_of_the_failure_whichever_came_first(
    errors: tuple[IngestorError | None, ...],
    happens: list[signal.Signals | Outcome],
    exit_code: int,
    error: str,
) -> None:
    run = Run(*map(ending_with, errors))
    run.plans[1] = ChildPlan("p1", run.plans[1].main, ends_run=True)
    outcome = run.to_the_end(tick=Ticks(run, *happens)).outcome
    assert (outcome.exit_code, outcome.error) == (exit_code, error)
