"""Child processes that end with their parent, also when it is killed, and whose output goes to files."""

import contextlib
import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)  # loaded here: nothing may be loaded between fork and exec

# File descriptors that every child keeps open: a lock held through one is free when the last child has ended.
held_open: set[int] = set()


class ServiceFailed(Exception):
    """A child ended or did not answer; the text names it, shows the end of its log and says where the log is."""


@dataclass
class Child:
    """One running process, leader of its own session, so that Ctrl-C in the terminal reaches only the parent."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    stop_signal: signal.Signals

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def ask_to_stop(self) -> None:
        """Send the stop signal; does not wait."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(self.stop_signal)

    def kill(self) -> None:
        """SIGKILL to the whole process group, then reap it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()

    def stop(self, patience_s: float = 10.0) -> int:
        """Ask, wait up to `patience_s` seconds, then kill. Returns the exit status (negative: the signal)."""
        self.ask_to_stop()
        try:
            return self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.process.returncode

    def last_lines(self, count: int = 8) -> str:
        """The end of the log, for an error message."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(f"  | {line[:300]}" for line in lines[-count:])

    def failure(self, what: str) -> ServiceFailed:
        return ServiceFailed(f"{self.name} {what}. The end of {self.log}:\n{self.last_lines()}")


def spawn(
    name: str,
    argv: Sequence[str | Path],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | str = "/",
    user: str | None = None,
    stop_signal: signal.Signals = signal.SIGTERM,
    death_signal: signal.Signals | None = None,
    nice: int = 0,
) -> Child:
    """Start a child whose output is appended to `log`.

    user          run as this user (root only): initdb and postgres refuse to run as root
    stop_signal   what asks it to end
    death_signal  what the kernel sends when this process dies, however it dies; default: stop_signal
    Only from the main thread: the kernel sends the death signal when the *thread* that spawned the child ends.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(f"{name} must be spawned from the main thread: it would die with the thread that spawned it")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = _popen(argv, output, env, cwd, user, death_signal or stop_signal, nice)
    return Child(name, process, log, stop_signal)


def run(
    name: str,
    argv: Sequence[str | Path],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | str = "/",
    user: str | None = None,
    patience_s: float = 120.0,
) -> None:
    """Run a command to its end, from any thread. Raises ServiceFailed when it fails or takes too long."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        child = Child(name, _popen(argv, output, env, cwd, user, signal.SIGKILL, 0), log, signal.SIGTERM)
    try:
        status = child.process.wait(patience_s)
    except subprocess.TimeoutExpired:
        child.kill()
        raise child.failure(f"did not end within {patience_s:.0f} s") from None
    if status != 0:
        raise child.failure(f"failed with exit status {status}")


def wait_until(ready: Callable[[], bool], child: Child, patience_s: float = 60.0, pause_s: float = 0.02) -> None:
    """Wait until `ready` says so; a child that dies meanwhile fails at once. Raises ServiceFailed."""
    deadline = time.monotonic() + patience_s
    while not ready():
        if not child.alive:
            raise child.failure(f"ended with exit status {child.process.returncode} while starting")
        if time.monotonic() > deadline:
            raise child.failure(f"did not answer within {patience_s:.0f} s")
        time.sleep(pause_s)


def stop_in_order(groups: Sequence[Sequence[Child]], patience_s: float = 10.0) -> None:
    """Stop group after group: each group is asked together; whoever is left when its patience ends is killed."""
    for group in groups:
        for child in group:
            child.ask_to_stop()
        deadline = time.monotonic() + patience_s
        for child in group:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0.0, deadline - time.monotonic()))
            if child.alive:
                child.kill()


def _popen(
    argv: Sequence[str | Path],
    output: object,
    env: Mapping[str, str] | None,
    cwd: Path | str,
    user: str | None,
    death_signal: signal.Signals,
    nice: int,
) -> "subprocess.Popen[bytes]":
    parent = os.getpid()

    def bind_to_parent() -> None:
        if nice:
            os.nice(nice)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # a mask of the parent would be inherited
        _libc.prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent:  # it died between fork and prctl
            os._exit(1)

    return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
        [str(part) for part in argv],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=None if env is None else dict(env),
        cwd=str(cwd),
        user=user,
        start_new_session=True,
        pass_fds=tuple(held_open),
        preexec_fn=bind_to_parent,
    )
