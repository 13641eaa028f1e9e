"""Processes of a crash trial: started cold or forked from the template, killed, frozen, and what became of them."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from demo.services import children

ROOT = Path(__file__).parents[2]
FORK_HANDLERS = "GRPC_ENABLE_FORK_SUPPORT"


def without_fork_handlers() -> None:
    """Start this command again without gRPC's handlers of fork: they crash a process that starts servers while it is
    one itself, and gRPC asks the environment before anybody can say so from within."""
    if os.environ.get(FORK_HANDLERS) != "0":
        os.environ[FORK_HANDLERS] = "0"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


@dataclass
class Process:
    """One running process. status: exit code (negative: the signal) once that is known."""

    pid: int
    log: Path
    started_at: float
    pidfd: int
    popen: "subprocess.Popen[bytes] | None" = None
    status: int | None = None

    @property
    def alive(self) -> bool:
        if self.popen is not None:
            return self.popen.poll() is None
        return self.status is None and not select.select([self.pidfd], [], [], 0)[0]

    def signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def ended(self, patience_s: float = 10.0) -> bool:
        """Wait until it has ended."""
        return bool(select.select([self.pidfd], [], [], patience_s)[0])

    def kill(self) -> None:
        """kill -9; returns when it is dead."""
        self.signal(signal.SIGKILL)
        if not self.ended():
            raise RuntimeError(f"{self.pid} outlives SIGKILL")
        if self.popen is not None:
            self.popen.wait(5)

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""


@dataclass
class Processes:
    """Starts processes; `look` takes in who has ended. warm: forked from the template, else `python -m` each time."""

    warm: bool
    work: Path
    made: dict[int, Process] = field(default_factory=dict)
    _template: "subprocess.Popen[bytes] | None" = None
    _heard: bytes = b""

    def open(self) -> None:
        """From the main thread."""
        if not self.warm:
            return
        env = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        with (self.work / "template.log").open("ab") as log:
            self._template = subprocess.Popen(
                [sys.executable, "-m", "tests.crashes.template"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                env=env,
            )
        self._await("ready", 60)

    def start(
        self,
        module: str,
        arguments: Sequence[str],
        env: Mapping[str, str],
        log: Path,
        without: Sequence[str] = (),
    ) -> Process:
        if self._template is None:
            return self._cold(module, arguments, env, log, without)
        wanted = {
            "module": module,
            "arguments": list(arguments),
            "env": dict(env),
            "log": str(log),
            "cwd": str(ROOT),
            "without": list(without),
        }
        assert self._template.stdin is not None
        self._template.stdin.write(json.dumps(wanted).encode() + b"\n")
        self._template.stdin.flush()
        pid = int(self._await("started", 30))
        process = Process(pid, log, time.monotonic(), os.pidfd_open(pid))
        self.made[pid] = process
        return process

    def look(self) -> None:
        """Take in what the template says."""
        if self._template is not None:
            self._hear()

    def status(self, process: Process, patience_s: float = 10.0) -> int | None:
        """How it has ended (negative: the signal); None where it lives on for so long."""
        deadline = time.monotonic() + patience_s
        if process.ended(patience_s) and process.popen is not None:
            process.status = process.popen.wait()
        while process.status is None and time.monotonic() < deadline + 1 and not process.alive:
            self._hear(0.1)
        return process.status

    def close(self) -> None:
        for process in self.made.values():
            if process.alive:
                process.signal(signal.SIGKILL)
            if process.popen is not None:
                process.popen.wait()
        if self._template is not None:
            assert self._template.stdin is not None
            self._template.stdin.close()
            self._template.wait(10)

    def _cold(
        self, module: str, arguments: Sequence[str], env: Mapping[str, str], log: Path, without: Sequence[str]
    ) -> Process:
        options = [word for name in without for word in ("--without", name)]
        command = [sys.executable, "-m", "tests.crashes.child", *options, "--", module, *arguments]
        child = children.spawn(module, command, log=log, env=env, cwd=ROOT, death_signal=signal.SIGKILL)
        process = Process(child.pid, log, time.monotonic(), os.pidfd_open(child.pid), child.process)
        self.made[child.pid] = process
        return process

    def _await(self, word: str, patience_s: float) -> int:
        deadline = time.monotonic() + patience_s
        while True:
            said = self._hear(max(0.0, deadline - time.monotonic()), until=word)
            if word in said:
                return int(said[word])
            assert self._template is not None
            if self._template.poll() is not None or time.monotonic() > deadline:
                words = (self.work / "template.log").read_text()[-2000:]
                raise RuntimeError(f"the template of processes said no {word}: {words}")

    def _hear(self, seconds: float = 0.0, until: str = "") -> dict[str, int]:
        """Read what is there; returns the message that holds `until`, if it came."""
        assert self._template is not None
        assert self._template.stdout is not None
        found: dict[str, int] = {}
        if not select.select([self._template.stdout], [], [], seconds)[0]:
            return found
        chunk = os.read(self._template.stdout.fileno(), 1 << 16)
        *lines, self._heard = (self._heard + chunk).split(b"\n")
        for line in lines:
            said = json.loads(line)
            if "ended" in said and said["ended"] in self.made:
                self.made[said["ended"]].status = said["status"]
            if until and until in said:
                found = said
        return found
