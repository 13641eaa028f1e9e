"""What scripts/bootstrap.py decides; what it installs is proved by .ci/run, which begins with it."""

import os
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts/bootstrap.py"


@pytest.fixture(scope="module")
def bootstrap() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(SCRIPT)))


@pytest.fixture
def fake_python(tmp_path: Path) -> Path:
    """An interpreter that says it is Python 3.9."""
    path = tmp_path / "python"
    path.write_text("#!/bin/sh\necho 3.9\n")
    path.chmod(0o755)
    return path


def test_it_asks_for_what_the_project_asks_for(bootstrap: SimpleNamespace) -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    (a, b), (c, d) = bootstrap.PYTHON_MIN, bootstrap.PYTHON_BELOW
    assert wanted == f">={a}.{b},<{c}.{d}"
    assert bootstrap.fits(tuple(map(int, bootstrap.PYTHON_FETCHED.split("."))))


@pytest.mark.parametrize(
    ("printed", "good"),
    [
        ("uv 0.13.9 (x86_64)", True),
        ("uv 0.8.0", True),
        ("uv 0.7.22", False),
        ("", False),
        ("pyenv: uv: not found", False),
    ],
)
def test_an_old_or_broken_uv_is_not_used(bootstrap: SimpleNamespace, printed: str, good: bool) -> None:
    assert bootstrap.is_good_uv(printed) is good


def test_the_pinned_uv_is_good(bootstrap: SimpleNamespace) -> None:
    assert bootstrap.is_good_uv(f"uv {bootstrap.UV_PINNED}")


def test_this_python_is_chosen(bootstrap: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHON", raising=False)
    assert bootstrap.chosen_python() == sys.executable
    assert bootstrap.version_of(sys.executable) == sys.version_info[:2]


def test_python_from_the_environment_wins_and_must_fit(
    bootstrap: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, fake_python: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTHON", str(fake_python))
    with pytest.raises(bootstrap.CannotBootstrap, match=r"is Python 3\.9; the project needs Python 3\.11 or 3\.12"):
        bootstrap.chosen_python()
    monkeypatch.setenv("PYTHON", str(tmp_path / "absent"))
    with pytest.raises(bootstrap.CannotBootstrap, match="does not run"):
        bootstrap.chosen_python()
    monkeypatch.setenv("PYTHON", sys.executable)
    assert bootstrap.chosen_python() == sys.executable


def test_without_venv_and_pip_it_names_the_package(bootstrap: SimpleNamespace, tmp_path: Path) -> None:
    bare = tmp_path / "python3"  # like Debian's python3 alone: runs, but has neither ensurepip nor pip
    bare.write_text('#!/bin/sh\ncase "$*" in *version_info*) echo 3.11;; *) exit 1;; esac\n')
    bare.chmod(0o755)
    with pytest.raises(bootstrap.CannotBootstrap, match=r"sudo apt-get install python3\.11-venv"):
        bootstrap.install_uv(str(bare), tmp_path / "uv")


def test_a_stamp_speaks_of_the_lock_and_of_the_python_that_was_asked_for(
    bootstrap: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHON", raising=False)
    (tmp_path / "scripts").mkdir()
    for name in bootstrap.LOCKED:
        (tmp_path / name).write_text("one")
    stamp = bootstrap.stamp_of(tmp_path, "/usr/bin/python3")
    assert stamp == bootstrap.stamp_of(tmp_path, "/opt/python3")
    monkeypatch.setenv("PYTHON", "/opt/python3")
    assert stamp != bootstrap.stamp_of(tmp_path, "/opt/python3")
    monkeypatch.delenv("PYTHON")
    (tmp_path / "uv.lock").write_text("two")
    assert stamp != bootstrap.stamp_of(tmp_path, "/usr/bin/python3")


def test_an_environment_is_current_only_when_whole(bootstrap: SimpleNamespace, tmp_path: Path) -> None:
    assert not bootstrap.is_current(tmp_path, "stamp")
    (tmp_path / ".stamp").write_text("stamp")
    assert not bootstrap.is_current(tmp_path, "stamp")  # the interpreter is gone
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").touch()
    assert bootstrap.is_current(tmp_path, "stamp")
    assert not bootstrap.is_current(tmp_path, "other")


@pytest.mark.parametrize(("libc", "said"), [("", "no glibc"), ("glibc 2.31", "too old")])
def test_a_c_library_without_wheels_is_said_before_the_download(
    bootstrap: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, libc: str, said: str
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setitem(bootstrap.check_platform.__globals__, "libc", lambda: libc)
    with pytest.raises(bootstrap.CannotBootstrap, match=said):
        bootstrap.check_platform()


def test_its_error_is_one_sentence(fake_python: Path) -> None:
    env = {**os.environ, "PYTHON": str(fake_python)}
    done = subprocess.run([sys.executable, SCRIPT], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("bootstrap: PYTHON=")
    assert len(done.stderr.splitlines()) == 1
