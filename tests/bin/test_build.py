"""What is built for others: made from what is here, and tried before it is handed out."""

from __future__ import annotations

import re
import subprocess
import tarfile
import zipfile
from importlib import import_module
from pathlib import Path

import pytest

from tests.bin.project import REPOSITORY, UNUSABLE


def build(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [root / "bin/build", *arguments], capture_output=True, text=True, timeout=600, check=False
    )


def test_what_it_does_not_know_is_refused() -> None:
    done = build(REPOSITORY, "--wheels")
    assert (done.returncode, done.stdout) == (UNUSABLE, "")
    assert "bin/build takes no --wheels" in done.stderr


def test_what_its_scripts_import_is_there() -> None:
    """The slow test builds; that a module has been renamed is told by the quick ones too."""
    found = [
        (path.name, module, names)
        for path in (REPOSITORY / "bin").iterdir()
        for module, names in re.findall(
            r"^from (ingestor[\w.]*) import (.+)$", path.read_text(), re.M
        )
    ]
    assert found
    for script, module, names in found:
        for name in names.split(", "):
            assert hasattr(import_module(module), name), (script, module, name)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sdist_and_wheel_hold_what_is_needed_and_the_wheel_is_whole() -> None:
    done = build(REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("installed from the wheel: all modules are compiled\n")
    lines = done.stdout.splitlines()
    made = sorted(REPOSITORY / line.split()[0] for line in lines if line.startswith("dist/"))
    wheel_path, sdist_path = made  # "-" comes before "."
    with tarfile.open(sdist_path) as sdist:
        sources = {name.partition("/")[2] for name in sdist.getnames()}
    with zipfile.ZipFile(wheel_path) as wheel:
        installed = set(wheel.namelist())
    tracked = subprocess.run(
        ["git", "ls-files", "ingestor"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(tracked.stdout.split()) <= sources
    modules = {name for name in tracked.stdout.split() if name.endswith(".py")}
    assert modules <= installed
    assert "ingestor/runtime/static/page.js" in installed
    compiled = {name.partition(".")[0] for name in installed if name.endswith(".so")}
    assert compiled == {
        f"ingestor/{one}" for one in ("encode/_fast", "encode/_parse", "model/_keys")
    }
