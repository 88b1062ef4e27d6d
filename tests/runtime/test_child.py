from __future__ import annotations

import gc
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from ingestor.model.errors import BadDataError, ExitCode, IngestorError
from ingestor.runtime.child import Child, ChildPlan, Outcome, pin, start_child


def ended(main: Callable[[], object], cpus: tuple[int, ...] = ()) -> Child:
    child = start_child(ChildPlan("probe", main, cpus))
    child.process.join(10)
    child.collect()
    return child


def test_a_report_comes_back_as_it_was_returned() -> None:
    outcome = ended(lambda: {"rows": 3}).outcome
    assert outcome is not None
    assert (outcome.exit_code, outcome.error, bytes(outcome.report)) == (0, None, b'{"rows":3}')


def test_an_error_of_ours_comes_back_as_its_sentence_and_exit_code() -> None:
    def main() -> None:
        raise BadDataError("day.dbn is not DBN")

    outcome = ended(main).outcome
    assert outcome == Outcome(ExitCode.BAD_DATA, "day.dbn is not DBN")


def test_any_other_error_names_itself_and_is_a_fault_of_the_program() -> None:
    def main() -> None:
        raise ZeroDivisionError("by zero")

    outcome = ended(main).outcome
    assert outcome == Outcome(ExitCode.INTERNAL, "probe: ZeroDivisionError: by zero")


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

    outcome = ended(main).outcome
    assert outcome is not None
    assert bytes(outcome.report) == b'"alive"'


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
    outcome = ended(lambda: sorted(os.sched_getaffinity(0)), cpus=(cpu,)).outcome
    assert outcome is not None
    assert bytes(outcome.report) == b"[%d]" % cpu


def test_a_cpu_that_is_not_there_is_an_error_that_names_those_there_are() -> None:
    with pytest.raises(IngestorError, match=r"CPUs \[4000\]: there are \[0"):
        pin((4000,))


def test_a_child_logs_under_its_own_name(capfd: pytest.CaptureFixture[str]) -> None:
    ended(lambda: logging.getLogger("x").warning("hello"))
    assert " WARNING probe: hello" in capfd.readouterr().err


def test_sleeps_of_a_child_end_on_time() -> None:
    outcome = ended(lambda: Path("/proc/self/timerslack_ns").read_text().strip()).outcome
    assert outcome is not None
    assert bytes(outcome.report) == b'"1"'


def test_collections_pass_over_what_was_there_before_the_process() -> None:
    before = gc.get_freeze_count()
    outcome = ended(gc.get_freeze_count).outcome
    assert outcome is not None
    assert int(bytes(outcome.report)) > 10_000
    assert gc.get_freeze_count() == before
