"""The extensions as they are built: without a compiler, and with one that watches memory."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ingestor

ROOT = Path(ingestor.__file__).parents[1]
PROGRAM = Path(__file__).with_name("memory_program.py")

needs_cython = pytest.mark.skipif(
    importlib.util.find_spec("Cython") is None or not (ROOT / "setup.py").exists(),
    reason="Cython or the source tree is missing, so the extension cannot be built here",
)
needs_compiler = pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc here")


def build(place: Path, level: str = "-O3", **environment: str) -> subprocess.CompletedProcess[str]:
    """Build the extensions inside `place`, as installing the package would."""
    text = (ROOT / "setup.py").read_text()
    assert '["-O3"]' in text
    (place / "setup.py").write_text(text.replace('["-O3"]', f'["{level}"]'))
    for source in (ROOT / "ingestor").rglob("*.p[yx][xdi]"):
        package = place / source.relative_to(ROOT).parent
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").touch()
        shutil.copy2(source, package)
    return subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"],
        cwd=place,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def library(name: str) -> str:
    found = subprocess.run(
        ["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True
    )
    return found.stdout.strip()


@pytest.fixture(scope="module")
def uncompiled(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Where a build without a compiler has left what Cython wrote, and what it said."""
    place = tmp_path_factory.mktemp("uncompiled")
    return place, build(place, CC="/nonexistent/compiler")


@needs_cython
def test_without_a_compiler_the_build_succeeds_and_leaves_extensions_out(
    uncompiled: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    place, done = uncompiled
    assert done.returncode == 0, done.stderr
    for name in ("ingestor.encode._fast", "ingestor.model._keys"):
        assert f'extension "{name}" failed' in done.stderr
    assert not list(place.rglob("*.so"))


@needs_cython
def test_no_function_can_lose_an_exception(
    uncompiled: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    written = sorted(uncompiled[0].glob("ingestor/**/*.c"))

    assert [source.stem for source in written] == ["_fast", "_keys"]
    # What Cython has a `noexcept` function do with an exception that it cannot raise.
    assert [source for source in written if "__Pyx_WriteUnraisable" in source.read_text()] == []


@needs_cython
@needs_compiler
def test_no_memory_is_overrun_under_address_sanitizer(
    uncompiled: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    if not Path(library("libasan.so")).is_absolute():
        pytest.skip("gcc has no AddressSanitizer here")
    # Cython leaves a C file alone that is newer than its source.
    shutil.copytree(uncompiled[0], tmp_path, dirs_exist_ok=True)
    # Compiled with -O1 it takes 11 s of CPU, with -O3 22 s.
    flags = "-fsanitize=address -fno-omit-frame-pointer -g1"
    built = build(tmp_path, "-O1", CFLAGS=flags, LDFLAGS="-fsanitize=address")
    extensions = [next(tmp_path.glob(f"ingestor/**/{name}.*.so")) for name in ("_fast", "_keys")]

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

    assert built.returncode == 0, built.stderr
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "json: 265 of 275 compared, 20 refused",
        "packed: 223 of 275 compared, 20 refused",
        "keys: 60 compared",
    ]
