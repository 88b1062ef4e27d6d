from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import zstandard

from ingestor.journal import segment_writer as compress_module
from ingestor.journal.segment_writer import Compressor, compress

CONTENT = b"0123456789" * 300_000


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    path = tmp_path / "stocks-20251216-000001.journal"
    path.write_bytes(CONTENT)
    return path


def poll_until_done(compressor: Compressor, path: Path) -> str | None:
    """Poll until a file is gone or something went wrong."""
    deadline = time.monotonic() + 20
    while (trouble := compressor.poll()) is None and path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return trouble


def test_a_file_is_replaced_by_its_compressed_form(plain: Path) -> None:
    done = compress(plain)
    assert list(plain.parent.iterdir()) == [done]
    assert done.name == "stocks-20251216-000001.journal.zst"
    assert zstandard.ZstdDecompressor().decompressobj().decompress(done.read_bytes()) == CONTENT
    assert zstandard.get_frame_parameters(done.read_bytes()).has_checksum


def test_what_a_crash_left_of_an_earlier_attempt_is_written_over(plain: Path) -> None:
    plain.with_name(plain.name + ".zst").write_bytes(b"whole too, or it had another name")
    done = compress(plain)
    assert zstandard.ZstdDecompressor().decompressobj().decompress(done.read_bytes()) == CONTENT


@pytest.mark.parametrize("left", [CONTENT, CONTENT[:12345], b""])
def test_a_file_that_its_whole_compressed_form_says_too_is_only_removed(
    plain: Path, left: bytes
) -> None:
    done = plain.with_name(plain.name + ".zst")
    done.write_bytes(zstandard.compress(CONTENT))
    before = done.read_bytes()
    plain.write_bytes(left)
    assert compress(plain) == done
    assert list(plain.parent.iterdir()) == [done]
    assert done.read_bytes() == before


def test_a_file_that_says_something_else_than_its_whole_compressed_form_is_left(
    plain: Path,
) -> None:
    done = plain.with_name(plain.name + ".zst")
    for other in (zstandard.compress(CONTENT[:-1]), zstandard.compress(b"other")):
        done.write_bytes(other)
        with pytest.raises(FileExistsError, match="differ: neither is touched"):
            compress(plain)
        assert (plain.read_bytes(), done.read_bytes()) == (CONTENT, other)


def test_the_original_stays_when_the_disk_is_full(
    plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from ingestor.journal.segment_writer import compress\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "compress(Path(sys.argv[1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(plain)], capture_output=True, check=False, timeout=60
    )
    assert b"File too large" in done.stderr
    assert [path.name for path in plain.parent.iterdir()] == [plain.name]
    assert plain.read_bytes() == CONTENT


def test_the_program_compresses_at_the_lowest_priority_on_the_cpus_it_is_given(plain: Path) -> None:
    fifo = plain.with_name("fifo")
    os.mkfifo(fifo)
    cpu = max(os.sched_getaffinity(0))
    process = subprocess.Popen(
        [sys.executable, "-m", compress_module.__name__, str(fifo), str(cpu)]
    )
    with fifo.open("wb") as source:
        assert os.sched_getaffinity(process.pid) == {cpu}
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == 19
        source.write(CONTENT)
    assert process.wait(20) == 0
    done = plain.with_name("fifo.zst")
    assert zstandard.ZstdDecompressor().decompressobj().decompress(done.read_bytes()) == CONTENT


def test_files_are_compressed_one_after_the_other(plain: Path) -> None:
    others = [plain.with_name(f"other{number}") for number in range(2)]
    compressor = Compressor()
    for path in (plain, *others):
        path.write_bytes(CONTENT)
        compressor.add(path)
    for path in (plain, *others):
        assert poll_until_done(compressor, path) is None
    names = {path.name for path in plain.parent.iterdir()}
    assert names == {f"{path.name}.zst" for path in (plain, *others)}


def test_files_are_not_compressed_on_the_cpu_that_a_feed_is_pinned_to_later(plain: Path) -> None:
    compressor, everywhere = Compressor(), os.sched_getaffinity(0)
    fifo = plain.with_name("fifo")
    os.mkfifo(fifo)
    compressor.add(fifo)
    os.sched_setaffinity(0, {min(everywhere)})
    try:
        compressor.poll()
        with fifo.open("wb") as source:
            assert compressor._running is not None
            assert os.sched_getaffinity(compressor._running.pid) == everywhere
            source.write(CONTENT)
        assert poll_until_done(compressor, fifo) is None
    finally:
        os.sched_setaffinity(0, everywhere)


def test_a_file_that_is_gone_is_told_and_does_not_hold_up_the_next(plain: Path) -> None:
    compressor = Compressor()
    gone = plain.with_name("gone")
    compressor.add(gone)
    compressor.add(plain)
    assert compressor.poll() is None
    trouble = poll_until_done(compressor, plain)
    assert trouble == f"{gone} was not compressed: its process ended with code 1"
    assert poll_until_done(compressor, plain) is None


def test_what_is_stopped_leaves_the_original(plain: Path) -> None:
    os.truncate(plain, 1 << 30)
    compressor = Compressor()
    compressor.add(plain)
    compressor.poll()
    compressor.stop()
    assert plain.stat().st_size == 1 << 30
    assert compressor.poll() is None
