from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from ingestor.model.errors import ConfigurationError
from ingestor.runtime import log as logs
from ingestor.runtime.log import LogFile, Target

LINE = b"%07d\n"
BYTES = 8


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log" / "ingestor.log"


@pytest.fixture
def logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level, logs._State.target
    yield
    for handler in root.handlers:
        handler.close()
    root.handlers[:], root.level, logs._State.target = before


def files(path: Path) -> list[str]:
    return sorted(one.name for one in path.parent.iterdir() if not one.name.endswith(".lock"))


def test_a_file_that_is_full_is_set_aside_and_so_many_are_kept(path: Path) -> None:
    file = LogFile(path, 10 * BYTES, 2)
    for number in range(35):
        assert file.write(LINE % number) == BYTES
    assert files(path) == ["ingestor.log", "ingestor.log.1", "ingestor.log.2"]
    newest, one, two = (Path(f"{path}{suffix}").read_bytes() for suffix in ("", ".1", ".2"))
    assert two + one + newest == b"".join(LINE % number for number in range(10, 35))


def test_none_is_kept_where_none_is_wanted(path: Path) -> None:
    file = LogFile(path, 10 * BYTES, 0)
    for number in range(11):
        file.write(LINE % number)
    assert files(path) == ["ingestor.log"]
    assert path.read_bytes() == LINE % 10


def test_a_file_that_somebody_else_moved_or_removed_is_made_anew(path: Path) -> None:
    file = LogFile(path, 10**6, 1)
    file.write(LINE % 0)
    path.rename(f"{path}.moved")
    file.write(LINE % 1)
    path.unlink()
    file.write(LINE % 2)
    assert Path(f"{path}.moved").read_bytes() == LINE % 0
    assert path.read_bytes() == LINE % 2


def test_processes_that_write_at_once_lose_no_line(path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=write_many, args=(path, first)) for first in (0, 10**6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    kept = b"".join(one.read_bytes() for one in path.parent.iterdir() if ".lock" not in one.name)
    expected = [LINE % (first + number) for first in (0, 10**6) for number in range(2_000)]
    assert sorted(kept.splitlines(keepends=True)) == sorted(expected)
    assert len(files(path)) > 10


def write_many(path: Path, first: int) -> None:
    file = LogFile(path, 200 * BYTES, 100)
    for number in range(2_000):
        file.write(LINE % (first + number))


def test_a_file_that_cannot_be_written_is_a_wrong_setting(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(ConfigurationError, match=r"log.file = .* cannot be written: Is a dir"):
        LogFile(path, 10**6, 1)


@pytest.mark.usefixtures("logging_restored")
def test_lines_of_a_log_go_into_the_file_also_those_of_processes_that_are_forked(
    path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.configure("parent", "INFO", Target(file=path))
    logging.getLogger("x").info("one")
    logs.configure("child", "INFO")
    logging.getLogger("x").info("two")
    assert [line.split(" ", 1)[1] for line in path.read_text().splitlines()] == [
        "INFO    parent: one",
        "INFO    child: two",
    ]
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("logging_restored")
def test_json_is_one_object_a_line_with_its_traceback(path: Path) -> None:
    logs.configure("stocks", "INFO", Target("json", path))
    log = logging.getLogger("x")
    log.warning("two\nlines %s", "and more")
    try:
        (path / "none").stat()
    except OSError:
        log.exception("failed")
    plain, failed = (msgspec.json.decode(line) for line in path.read_bytes().splitlines())
    assert plain.pop("time")[10] == "T"
    assert plain == {"level": "WARNING", "process": "stocks", "message": "two\\nlines and more"}
    assert failed["traceback"][0].startswith("Traceback")
    assert failed["traceback"][-1].startswith("NotADirectoryError")
