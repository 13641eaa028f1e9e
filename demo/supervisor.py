"""Keeps the demo's processes running: one that ends is started again after a pause, and its last words are kept."""

import json
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from demo.services import children

PAUSE_S = 1.0  # before the first restart; doubled each time
PAUSE_S_MAX = 30.0
HEALTHY_S = 60.0  # after so long the next pause is the first again


@dataclass(frozen=True)
class Job:
    """One process of the demo. A job with `once` may end by itself with 0; any other end is a failure."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    once: bool = False
    before: Callable[[], None] | None = None  # run before each start, such as making its recovery directory


@dataclass
class Supervised:
    """A job and what became of it. reason: in words, why it is not running; empty while it runs."""

    job: Job
    child: children.Child | None = None
    started_at: float = 0.0
    start_again_at: float = 0.0
    restarts: int = 0
    pause_s: float = PAUSE_S
    reason: str = ""
    finished: bool = False


@dataclass
class Supervisor:
    """Call `tick` a few times a second, from the main thread: children must be spawned there.

    logs   folder of one file per job        cwd  working directory of all of them
    clock  seconds, monotonic
    """

    logs: Path
    cwd: Path
    clock: Callable[[], float] = time.monotonic
    jobs: dict[str, Supervised] = field(default_factory=dict)

    def add(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            self.jobs[job.name] = Supervised(job)
        self.tick()

    def tick(self) -> None:
        """Notice who ended; start whoever is due."""
        now = self.clock()
        for each in self.jobs.values():
            if each.finished:
                continue
            if each.child is not None and not each.child.alive:
                self._ended(each, now)
            if each.child is None and not each.finished and now >= each.start_again_at:
                self._start(each, now)

    def kill(self, name: str) -> None:
        """kill -9, whatever it is doing; the next tick starts it again, as Kubernetes does the first time."""
        each = self.jobs[name]
        if each.child is None:
            return
        each.child.kill()
        each.child, each.reason = None, "was killed"
        each.start_again_at = self.clock()
        each.restarts += 1

    def drop(self, name: str) -> children.Child | None:
        """Ask this job to stop, do not start it again, and hand its process over to be waited for."""
        each = self.jobs.pop(name, None)
        if each is None or each.child is None:
            return None
        each.child.ask_to_stop()
        return each.child

    def running(self) -> list[children.Child]:
        return [each.child for each in self.jobs.values() if each.child is not None]

    def _start(self, each: Supervised, now: float) -> None:
        if each.job.before:
            each.job.before()
        log = self.logs / f"{each.job.name}.log"
        each.child = children.spawn(
            each.job.name,
            each.job.argv,
            log=log,
            env=each.job.env,
            cwd=self.cwd,
            # The servers end with us: asked politely, a flow would wait half a minute for their acknowledgements.
            death_signal=signal.SIGKILL,
        )
        each.started_at, each.reason = now, ""

    def _ended(self, each: Supervised, now: float) -> None:
        assert each.child is not None
        status = each.child.process.returncode
        if each.job.once and status == 0:
            each.finished, each.child = True, None
            return
        each.pause_s = PAUSE_S if now - each.started_at > HEALTHY_S else each.pause_s
        each.reason = f"ended with {status}: {last_words(each.child.log)}"
        each.start_again_at = now + each.pause_s
        each.pause_s = min(PAUSE_S_MAX, each.pause_s * 2)
        each.restarts += 1
        each.child = None


def last_words(log: Path) -> str:
    """Why a process ended, from the end of its log: the sentence of a flow that stopped, else the last line."""
    try:
        lines = log.read_text(errors="replace")[-20_000:].splitlines()
    except OSError:
        return "it left no log"
    for line in reversed(lines[-40:]):
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if isinstance(said, dict) and "why" in said:
            return str(said["why"])
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
