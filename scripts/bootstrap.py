"""Make .venv from uv.lock: `python3 scripts/bootstrap.py`, or any `make` target. Needs python3 and nothing else.

`python3 scripts/bootstrap.py demo` leaves out what only tests, checks and benchmarks need: a third of the download.

It runs before anything is installed, under whatever python3 the machine has: standard library only, no syntax that an
older Python cannot read. Environment: PYTHON (the interpreter to use), CI (download no Python), and the settings of
pip and uv (index, proxies, certificates, UV_PYTHON_DOWNLOADS), which are passed on.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON_MIN, PYTHON_BELOW, PYTHON_FETCHED = (3, 11), (3, 13), "3.12"  # as requires-python in pyproject.toml
UV_PINNED, UV_MIN = "0.13.9", (0, 8)
GLIBC_MIN = (2, 34)  # the wheels of cryptography ask for it: Debian 12, Ubuntu 22.04 and later
EVERYTHING, DEMO = "everything", "demo"
SIZES = {EVERYTHING: "about 310 MB to download, 910 MB on disk", DEMO: "about 200 MB to download, 550 MB on disk"}
PROBE = "import sys; print('%d.%d' % sys.version_info[:2])"
LOCKED = ("uv.lock", "pyproject.toml", "scripts/bootstrap.py")


class CannotBootstrap(Exception):
    """The environment cannot be made; the text says what is missing and what to do."""


def main() -> int:
    """Make the environment unless it is there already. Returns the exit code: 0 done, 1 with a sentence on stderr."""
    environment = ROOT / ".venv"
    wanted = DEMO if sys.argv[1:] == [DEMO] else EVERYTHING
    try:
        python = chosen_python()
        stamp = stamp_of(ROOT, python)
        if any(is_current(environment, f"{made} {stamp}") for made in {wanted, EVERYTHING}):
            return 0
        check_platform()
        uv = uv_to_use(python)
        say(f"making {environment.name} from uv.lock ({SIZES[wanted]}; what uv has cached is not downloaded again)")
        sync(uv, environment, python, wanted)
        (environment / ".stamp").write_text(f"{wanted} {stamp}", encoding="utf-8")
        say("done: make demo, make test, make check")
    except CannotBootstrap as error:
        print(f"bootstrap: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bootstrap: interrupted; run it again, it goes on with what is there", file=sys.stderr)
        return 130
    return 0


def say(text: str) -> None:
    print(f"bootstrap: {text}", file=sys.stderr, flush=True)


def stamp_of(root: Path, python: str | None) -> str:
    """What the environment was made from: the lock, the project, this script, and the Python that was asked for."""
    digest = hashlib.sha256(((os.environ.get("PYTHON") and python) or "").encode())
    for name in LOCKED:
        digest.update((root / name).read_bytes())
    return digest.hexdigest()


def is_current(environment: Path, stamp: str) -> bool:
    """Whether the environment was made whole from the same lock, and its interpreter still exists."""
    written = environment / ".stamp"
    return written.is_file() and written.read_text(encoding="utf-8") == stamp and (environment / "bin/python").exists()


def chosen_python() -> str | None:
    """Path of a Python the project runs on: PYTHON, this one, or one on PATH. None: the machine has none.

    Raises CannotBootstrap where PYTHON names something that does not fit.
    """
    wanted = os.environ.get("PYTHON")
    if wanted:
        found = version_of(wanted)
        if found is None or not fits(found):
            what = "does not run" if found is None else f"is Python {found[0]}.{found[1]}"
            raise CannotBootstrap(f"PYTHON={wanted} {what}; the project needs Python 3.11 or 3.12")
        return shutil.which(wanted) or wanted
    if fits(sys.version_info[:2]):
        return sys.executable
    names = (f"python{PYTHON_MIN[0]}.{minor}" for minor in range(PYTHON_BELOW[1] - 1, PYTHON_MIN[1] - 1, -1))
    for path in filter(None, map(shutil.which, (*names, "python3"))):
        found = version_of(path)  # asked, not guessed from the name: a pyenv shim exists for versions that do not run
        if found is not None and fits(found):
            return path
    return None


def fits(version: tuple[int, ...]) -> bool:
    return PYTHON_MIN <= tuple(version) < PYTHON_BELOW


def version_of(python: str) -> tuple[int, ...] | None:
    """(major, minor) of an interpreter, or None where it does not run."""
    printed = output_of([python, "-c", PROBE])
    return tuple(int(part) for part in printed.split(".")) if printed else None


def output_of(command: list[str]) -> str:
    """What a command prints, stripped; empty where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def check_platform() -> None:
    """Raises CannotBootstrap where the wheels of the lock cannot run: there is nothing to build from source."""
    if sys.platform != "linux":
        return
    name, _, version = libc().partition(" ")
    if name != "glibc":
        raise CannotBootstrap("this Linux has no glibc (Alpine?), and the packages have wheels for glibc only")
    if tuple(int(part) for part in version.split(".")[:2]) < GLIBC_MIN:
        raise CannotBootstrap(f"glibc {version} is too old: the packages need 2.34 (Debian 12, Ubuntu 22.04 or later)")


def libc() -> str:
    """'glibc 2.36', or something else where the C library is another one."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        return " ".join(platform.libc_ver())


def uv_to_use(python: str | None) -> str:
    """Path of a uv that can read the lock: the one on PATH, else the pinned one, installed into .uv with pip."""
    on_path = shutil.which("uv")
    if on_path and is_good_uv(output_of([on_path, "--version"])):
        return on_path
    private = ROOT / ".uv"
    uv = private / "bin" / "uv"
    if not is_good_uv(output_of([str(uv), "--version"])):
        say(f"installing uv {UV_PINNED} into {private.name} with pip (about 25 MB)")
        install_uv(python or sys.executable, private)
    return str(uv)


def is_good_uv(printed: str) -> bool:
    """printed: what `uv --version` said, such as 'uv 0.13.9 (x86_64-unknown-linux-gnu)'."""
    words = printed.split()
    if len(words) < 2 or words[0] != "uv":
        return False
    numbers = words[1].split(".")
    return all(part.isdigit() for part in numbers[:2]) and tuple(int(part) for part in numbers[:2]) >= UV_MIN


def install_uv(python: str, folder: Path) -> None:
    """Install the pinned uv into `folder`: in a virtual environment, or with the machine's pip where venv is missing.

    Raises CannotBootstrap with the package to install where Python came without both, or pip's own words.
    """
    shutil.rmtree(folder, ignore_errors=True)
    requirement = f"uv=={UV_PINNED}"
    if output_of([python, "-c", "import ensurepip, venv; print('there')"]):
        run([python, "-m", "venv", str(folder)], "making a virtual environment")
        run([str(folder / "bin/python"), "-m", "pip", "install", "-q", requirement], f"installing {requirement}")
    elif output_of([python, "-m", "pip", "--version"]):
        run([python, "-m", "pip", "install", "-q", "--target", str(folder), requirement], f"installing {requirement}")
    else:
        major, minor = version_of(python) or sys.version_info[:2]
        raise CannotBootstrap(
            f"{python} has neither venv nor pip (Debian and Ubuntu package them apart). "
            f"Run: sudo apt-get install python{major}.{minor}-venv    or install uv: https://docs.astral.sh/uv/"
        )
    (folder / ".gitignore").write_text("*\n", encoding="utf-8")


def sync(uv: str, environment: Path, python: str | None, wanted: str) -> None:
    """Let uv install exactly what the lock names. Where the machine has no fitting Python, uv downloads one."""
    settings = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    settings["UV_PROJECT_ENVIRONMENT"] = str(environment)
    if python is None:
        if os.environ.get("CI") and "UV_PYTHON_DOWNLOADS" not in os.environ:
            raise CannotBootstrap("no Python 3.11 or 3.12 on this machine: install one, or set PYTHON to its path")
        say(f"no Python 3.11 or 3.12 on this machine: uv downloads {PYTHON_FETCHED} (about 30 MB) for itself")
    groups = ["--no-default-groups", "--group", "embedded"] if wanted == DEMO else ["--all-groups"]
    command = [uv, "sync", "--locked", *groups, "--python", python or PYTHON_FETCHED]
    if not sys.stderr.isatty():
        command.append("--quiet")  # a log needs neither the progress bar nor a hundred names
    run(command, "installing the packages of uv.lock", settings)


def run(command: list[str], what: str, settings: dict[str, str] | None = None) -> None:
    """Run in the repository, output to the terminal. Raises CannotBootstrap with the command where it fails."""
    done = subprocess.run(command, cwd=ROOT, env=settings, check=False)
    if done.returncode:
        raise CannotBootstrap(f"{what} failed (exit {done.returncode}), see above. The command: {' '.join(command)}")


if __name__ == "__main__":
    sys.exit(main())
