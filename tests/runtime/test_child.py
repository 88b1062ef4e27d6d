from __future__ import annotations

import gc
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from ingestor.model.errors import BadDataError, ExitCode, IngestorError
from ingestor.runtime.machine import pin
from ingestor.runtime.supervisor import Child, ChildPlan, Outcome, start_child


def said(find: Callable[[], object], cpus: tuple[int, ...] = ()) -> str | None:
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

    assert said(main) == "alive"


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
    assert said(lambda: sorted(os.sched_getaffinity(0)), cpus=(cpu,)) == f"[{cpu}]"


def test_a_cpu_that_is_not_there_is_an_error_that_names_those_there_are() -> None:
    with pytest.raises(IngestorError, match=r"CPUs \[4000\]: there are \[0"):
        pin((4000,))


def test_a_child_logs_under_its_own_name(capfd: pytest.CaptureFixture[str]) -> None:
    ended(lambda: logging.getLogger("x").warning("hello"))
    assert " WARNING probe: hello" in capfd.readouterr().err


def test_sleeps_of_a_child_end_on_time() -> None:
    assert said(lambda: Path("/proc/self/timerslack_ns").read_text().strip()) == "1"


def test_collections_pass_over_what_was_there_before_the_process() -> None:
    before = gc.get_freeze_count()
    assert int(said(gc.get_freeze_count) or 0) > 10_000
    assert gc.get_freeze_count() == before
