"""How much of each room its own tests cover: ``bin/test --coverage [ROOM ...]``.

The tests of a room are those in ``tests/ROOM``: what the tests of whole runs cover besides does not
count here. Processes that a test starts are measured too, as far as they are not killed. Ends
with 1 where a room is below its minimum in setup.cfg, or a test fails.
"""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import coverage

_ROOT: Final = Path(__file__).resolve().parents[1]
ROOMS: Final = tuple(
    path.name
    for path in sorted((_ROOT / "tests").iterdir())
    if path.is_dir() and (_ROOT / "ingestor" / path.name / "__init__.py").exists()
)


def measure(room: str, folder: Path) -> tuple[float, bool]:
    """Run a room's own tests; return the percentage of it that they cover, and if all passed."""
    data = folder / room / ".coverage"
    data.parent.mkdir()
    run = [sys.executable, "-P", "-m", "coverage", "run", f"--rcfile={_ROOT / 'setup.cfg'}"]
    run += [f"--data-file={data}", f"--source={_ROOT / 'ingestor' / room}"]
    tests = ["-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", f"tests/{room}"]
    done = subprocess.run(
        [*run, *tests], check=False, cwd=_ROOT, env=os.environ, stdout=subprocess.PIPE
    )
    sys.stderr.buffer.write(done.stdout if done.returncode else b"")
    measured = coverage.Coverage(data_file=data, config_file=str(_ROOT / "setup.cfg"))
    measured.combine([str(data.parent)])
    with Path(os.devnull).open("w") as nowhere:
        return measured.report(file=nowhere), done.returncode == 0


def main(rooms: list[str]) -> int:
    """Measure rooms, all of them unless some are named, and print a table."""
    settings = configparser.ConfigParser()
    settings.read(_ROOT / "setup.cfg")
    least = settings["coverage:report"].getfloat("fail_under", 0)
    fine = True
    with tempfile.TemporaryDirectory(prefix="coverage-") as name:
        print(f"{'room':10} covered  at least")
        for room in rooms or ROOMS:
            percent, passed = measure(room, Path(name))
            wanted = settings["ingestor:coverage"].getfloat(room, least)
            fine &= passed and percent >= wanted
            failed = "" if passed else "   tests failed"
            print(f"{room:10} {percent:5.1f} %  {wanted:5.0f} %{failed}", flush=True)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
