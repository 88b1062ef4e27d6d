"""The extensions as they are built: without a compiler, and with one that watches memory."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

import pytest

import ingestor

ROOT = Path(ingestor.__file__).parents[1]
PROGRAM = Path(__file__).with_name("memory_program.py")

needs_cython = pytest.mark.skipif(
    importlib.util.find_spec("Cython") is None or not (ROOT / "setup.py").exists(),
    reason="Cython or the source tree is missing, so the extension cannot be built here",
)
needs_compiler = pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc here")


EXTENSIONS = {
    "ingestor.encode._fast": "ingestor/encode/_fast.c",
    "ingestor.encode._parse": "ingestor/encode/_parse.c",
    "ingestor.model._keys": "ingestor/model/_keys.c",
}


class Built(NamedTuple):
    """What building left in `place` where there is no compiler: C, and nothing made of it."""

    place: Path
    done: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The extensions as installing the package would build them."""
    place = tmp_path_factory.mktemp("build")
    shutil.copy(ROOT / "setup.py", place)
    for source in (ROOT / "ingestor").rglob("*.p[yx][xdi]"):
        package = place / source.relative_to(ROOT).parent
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").touch()
        shutil.copy(source, package)
    done = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"],
        cwd=place,
        env={**os.environ, "CC": "/nonexistent/compiler"},
        capture_output=True,
        text=True,
        check=False,
    )
    return Built(place, done)


def library(name: str) -> str:
    found = subprocess.run(
        ["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True
    )
    return found.stdout.strip()


def compiled_with_sanitizer(place: Path) -> list[Path]:
    """Compile all at once, and little optimized: as they are installed they take minutes."""
    flags = ["-w", "-O1", "-g", "-fsanitize=address", "-fno-omit-frame-pointer", "-fPIC", "-shared"]
    include = f"-I{sysconfig.get_path('include')}"
    made = [place / Path(source).with_suffix(".so").name for source in EXTENSIONS.values()]
    compilers = [
        subprocess.Popen(["gcc", *flags, include, place / source, "-o", target])
        for source, target in zip(EXTENSIONS.values(), made, strict=True)
    ]
    assert [compiler.wait() for compiler in compilers] == [0] * len(made)
    return made


@needs_cython
def test_without_a_compiler_the_build_succeeds_and_leaves_extensions_out(built: Built) -> None:
    assert built.done.returncode == 0, built.done.stderr
    for name in EXTENSIONS:
        assert f'extension "{name}" failed' in built.done.stderr
    assert not list(built.place.rglob("*.so"))


@needs_cython
def test_no_function_can_lose_an_exception(built: Built) -> None:
    written = sorted(built.place.glob("ingestor/**/*.c"))

    assert [str(source.relative_to(built.place)) for source in written] == [*EXTENSIONS.values()]
    # What Cython has a `noexcept` function do with an exception that it cannot raise.
    assert [source for source in written if "__Pyx_WriteUnraisable" in source.read_text()] == []


@pytest.mark.slow
@needs_cython
@needs_compiler
def test_no_memory_is_overrun_under_address_sanitizer(built: Built) -> None:
    if not Path(library("libasan.so")).is_absolute():
        pytest.skip("gcc has no AddressSanitizer here")
    extensions = compiled_with_sanitizer(built.place)

    done = subprocess.run(
        [sys.executable, str(PROGRAM), *map(str, extensions)],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONMALLOC": "malloc",
            "LD_PRELOAD": library("libasan.so"),
            "ASAN_OPTIONS": "detect_leaks=0",
        },
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "json: 265 of 275 compared, 20 refused",
        "packed: 223 of 275 compared, 20 refused",
        "messages: 10 read, 45402 compared",
        "keys: 60 compared",
    ]
