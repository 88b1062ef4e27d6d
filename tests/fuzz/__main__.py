"""``python -m tests.fuzz TARGET...``: run targets, or one input again."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from tests.fuzz.campaign import Campaign
from tests.fuzz.targets import TARGETS
from tests.fuzz.worker import Inputs


def main() -> int:
    """Return 1 when anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []])
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--index", type=int, help="one input again, with its traceback")
    parser.add_argument("--hex", type=Path, help="an input that was saved")
    chosen = parser.parse_args()
    if chosen.index is not None or chosen.hex is not None:
        return _again(chosen)
    numbers = range(chosen.first, chosen.first + chosen.inputs)
    found = 0
    for name in chosen.targets or TARGETS:
        for report in Campaign([name], numbers, chosen.seed).run():
            print(report, *report.findings, sep="\n", flush=True)
            found += len(report.findings)
    return int(found > 0)


def _again(chosen: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as folder:
        inputs = Inputs(chosen.targets[0], Path(folder), chosen.seed)
        data = bytes.fromhex(chosen.hex.read_text()) if chosen.hex else inputs[chosen.index]
        print(f"{len(data)} bytes: {data[:400]!r}")
        signal.alarm(10)
        inputs.target.run(data)
    return 0


sys.exit(main())
