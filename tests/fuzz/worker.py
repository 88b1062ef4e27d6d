"""One process that runs inputs: what it watches, and what it tells on standard output.

Within the process an exception outside the tree, a second of CPU time, an allocation beyond
`MAX_NEW_BYTES` and a resident set that goes on growing are findings. What the interpreter cannot
see, a crash or a loop in native code, shows in `Place`: a file that names the input under way.
"""

from __future__ import annotations

import ctypes
import json
import logging
import mmap
import os
import resource
import signal
import struct
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any, Final

from ingestor.model.errors import IngestorError
from tests.fuzz.mutator import Mutator
from tests.fuzz.target import Target
from tests.fuzz.targets import EVIL, TARGETS

LIMIT_S: Final = 1.0
"""CPU time of one input: a loaded machine does not make a hang."""

MAX_NEW_BYTES: Final = 512 * 1024 * 1024
"""Address space beyond what a worker has when it begins."""

MAX_GROWTH_BYTES: Final = 64 * 1024 * 1024
"""Resident bytes by which the inputs of one worker may grow it, once it is warm."""

_WARM_SHARE: Final = 5
_TRACE_LINES: Final = 12
_SEED_BITS: Final = 40
_PLACE: Final = struct.Struct("<qq")
_LIBC: Final = ctypes.CDLL(None)
_ROOT: Final = Path(__file__).parents[2]


class HangError(BaseException):
    """An input took longer than `LIMIT_S`."""


class Inputs:
    """The inputs of one target by number."""

    def __init__(self, name: str, folder: Path, seed: int) -> None:
        self.target: Target = (TARGETS | EVIL)[name](folder)
        self._mutator = Mutator(self.target.samples, text=self.target.text)
        self._seed = seed
        self._rng = Random()

    def __getitem__(self, index: int) -> bytes:
        """Return an input: the same for the same seed and number, whatever came before."""
        self._rng.seed(self._seed << _SEED_BITS | index)
        return self.target.finish(self._rng, self._mutator.make(self._rng))


class Place:
    """Which input is under way, (number of the target, number of the input), beyond a crash."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _PLACE.size)

    @staticmethod
    def create(path: Path) -> Place:
        """Make the file."""
        path.write_bytes(bytes(_PLACE.size))
        return Place(path)

    def write(self, target: int, index: int) -> None:
        """Note what is begun."""
        _PLACE.pack_into(self._map, 0, target, index)

    def read(self) -> tuple[int, int]:
        """Return what was begun last."""
        target, index = _PLACE.unpack_from(self._map)
        return target, index


class _Reader(logging.Handler):
    """Reads every record, so that a sentence that cannot be made is a finding."""

    def emit(self, record: logging.LogRecord) -> None:
        record.getMessage()


def main(job: dict[str, Any]) -> None:
    """Run what the campaign asks for: targets by name, `inputs` each, the first from `first` on."""
    logging.basicConfig(handlers=[_Reader()], force=True)
    signal.signal(signal.SIGPROF, _hang)
    place = Place(Path(job["place"]))
    for number, name in enumerate(job["targets"]):
        folder = Path(job["folder"]) / name
        folder.mkdir(exist_ok=True)
        inputs = Inputs(name, folder, job["seed"])
        first = job["first"] if number == 0 else job["begin"]
        with _bounded_memory():
            _run(inputs, range(first, job["end"]), place, number)


def verdict(target: Target, data: bytes) -> tuple[str, str] | None:
    """Run one input; return its kind and traceback where it is a finding."""
    signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
    try:
        target.run(data)
    except IngestorError:
        return None
    except BaseException as error:  # noqa: BLE001 - panics of native code are no Exception
        signal.setitimer(signal.ITIMER_PROF, 0)
        lines = "".join(traceback.format_exception(error)).splitlines()
        return _kind(error), "\n".join(line[:300] for line in lines[-_TRACE_LINES:])
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return None


def _run(inputs: Inputs, numbers: Sequence[int], place: Place, target: int) -> None:
    kinds: Counter[str] = Counter()
    began, warm = time.monotonic(), 0
    for done, index in enumerate(numbers):
        place.write(target, index)
        found = verdict(inputs.target, inputs[index])
        if found is not None:
            kinds[found[0]] += 1
            if kinds[found[0]] == 1:
                _tell(index=index, kind=found[0], trace=found[1])
        if done == len(numbers) // _WARM_SHARE:
            warm = _resident_bytes()
    growth = _resident_bytes() - warm
    if growth > MAX_GROWTH_BYTES:
        kinds[f"the process grew by {growth} bytes"] += 1
        _tell(index=numbers[-1], kind=f"the process grew by {growth} bytes", trace="")
    _tell(done=len(numbers), seconds=time.monotonic() - began, growth=growth, kinds=kinds)


def _tell(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def _hang(_number: int, _frame: FrameType | None) -> None:
    raise HangError(f"more than {LIMIT_S:g} s")


def _kind(error: BaseException) -> str:
    """Name an error by what it is and the last line of ours that it came through."""
    ours = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename.startswith(str(_ROOT))
        and "/.venv/" not in frame.filename
        and frame.name != _hang.__name__
    ]
    last = ours[-1]
    if isinstance(error, AssertionError):
        return str(error).partition(":")[0]
    return f"{type(error).__name__} in {Path(last.filename).relative_to(_ROOT)} {last.name}"


@contextmanager
def _bounded_memory() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + MAX_NEW_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _resident_bytes() -> int:
    # What was freed and is only kept for later is no growth: a zstd window takes up to 128 MiB.
    _LIBC.malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
