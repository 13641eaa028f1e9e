"""Keeps the deployments of a trial running, as Kubernetes would, and measures how long each needs to come back."""

import heapq
import itertools
import json
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.crashes.gauges import Gauges
from tests.crashes.installation import LAYOUTS, Deployment, Installation
from tests.crashes.processes import Process

TICK_S = 0.02
SILENT = object()


@dataclass
class Recovery:
    """A deployment that was killed and has written nothing since. before: its gauge after the kill"""

    killed_at: float
    before: Any = SILENT


@dataclass
class Zombie:
    """A process that was frozen and replaced.

    owned  it had claimed its partitions: it must end. One that was still starting, or backing off, claims them when
           it wakes up, and is then the newer of the two
    """

    deployment: Deployment
    process: Process
    owned: bool
    woken_at: float | None = None

    @property
    def must_end(self) -> bool:
        """One that found Redis without its writes starts itself again, and is then the newer of the two."""
        return self.owned and "LostWrites" not in self.process.said()


@dataclass
class Supervisor:
    """Main thread only; call `tick` often, or `pause`, which does.

    ended      why processes ended that nobody had killed -> how often
    recovered  seconds from each kill to the first new output, by sink; a kill before that is not counted
    """

    installation: Installation
    gauges: Gauges
    ended: Counter[str] = field(default_factory=Counter)
    recovered: dict[str, list[float]] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)
    zombies: list[Zombie] = field(default_factory=list)
    restarting: bool = True
    _recovering: dict[str, Recovery] = field(default_factory=dict)
    _moving: dict[str, Any] = field(default_factory=dict)  # gauge of a deployment when its process had started
    _timers: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _numbers: Any = field(default_factory=itertools.count)

    def tick(self) -> None:
        """Notice who ended, start it again, do what is due."""
        self.installation.stage.note_redis()
        self.installation.stage.processes.look()
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()
        for deployment in self.installation.deployments:
            process = deployment.process
            if process is not None and not process.alive:
                self._note(process)
                deployment.process = None
            if deployment.process is None and self.restarting:
                self.start(deployment)
            self._measure(deployment)
        if not self.installation.receiver.alive and self.restarting:
            self.installation.start_receiver()

    def pause(self, seconds: float) -> None:
        """Go on looking after everything for so long."""
        self.wait(lambda: False, seconds)

    def wait(self, condition: Callable[[], object], seconds: float) -> bool:
        """Until the condition holds; False where it does not within so long."""
        deadline = time.monotonic() + seconds
        while True:
            self.tick()
            if condition():
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(TICK_S, left))

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._numbers), what))

    def hurry(self) -> None:
        """Do at once what was to be done later."""
        while self._timers:
            heapq.heappop(self._timers)[2]()

    def start(self, deployment: Deployment) -> None:
        self.installation.start(deployment)
        self._moving[deployment.name] = SILENT

    def kill(self, deployment: Deployment) -> None:
        """kill -9, whatever it is doing; it is started again by the next tick."""
        if deployment.process is None or not deployment.process.alive:
            return
        deployment.process.kill()
        deployment.process = None
        self.kills[deployment.sink] += 1
        self._recovering[deployment.name] = Recovery(time.monotonic())

    def moved(self, deployment: Deployment) -> bool:
        """Whether its output has moved since its process started."""
        process = deployment.process
        if process is None:
            return False
        value = self.gauges.read(deployment.sink, deployment.numbers, process.started_at)
        if value is None:
            return False
        if self._moving.get(deployment.name, SILENT) is SILENT:
            self._moving[deployment.name] = value
        return bool(self._moving[deployment.name] != value)

    def replace(self, deployment: Deployment, sleep_s: float) -> None:
        """Freeze its process, start another in its place, and wake the first up when that one is at work."""
        if deployment.process is None:
            return
        zombie = Zombie(deployment, deployment.process, _has_claimed(deployment, deployment.process))
        zombie.process.signal(signal.SIGSTOP)
        deployment.generation += 1
        self.zombies.append(zombie)
        self.start(deployment)
        deadline = time.monotonic() + 6.0

        def wake() -> None:
            waiting = deployment in self.installation.deployments and not self.moved(deployment)
            if waiting and time.monotonic() < deadline:
                self.later(0.1, wake)
            else:
                self.later(sleep_s, lambda: self._wake(zombie))

        self.later(0.1, wake)

    def rescale(self, sink: str) -> None:
        """Kill all processes of the sink, go on with one more of them: 1, 2, 3, then 1 again."""
        former = self.installation.of(sink)
        for deployment in former:
            self.kill(deployment)
            self._recovering.pop(deployment.name, None)
            self.installation.deployments.remove(deployment)
        generation = 1 + max(deployment.generation for deployment in former)
        for partitions in LAYOUTS[len(former) % 3 + 1]:
            deployment = Deployment(sink, partitions, generation, starts=100 * generation)
            self.installation.deployments.append(deployment)
            self.start(deployment)

    def wake_all(self) -> None:
        for zombie in self.zombies:
            if zombie.woken_at is None:
                self._wake(zombie)

    def buried(self) -> bool:
        """Whether every zombie that must has ended."""
        return not any(zombie.must_end and zombie.process.alive for zombie in self.zombies)

    def bury(self) -> list[str]:
        """The zombies that live on and must not, in words; all are killed."""
        found = []
        for zombie in self.zombies:
            if zombie.process.alive:
                if zombie.must_end:
                    found.append(f"zombie of {zombie.deployment.sink} lives on: {last_words(zombie.process)}")
                zombie.process.kill()
            else:
                self._note(zombie.process)
        return found

    def _wake(self, zombie: Zombie) -> None:
        zombie.woken_at = time.monotonic()
        zombie.process.signal(signal.SIGCONT)

    def _note(self, process: Process) -> None:
        self.ended[last_words(process)] += 1

    def _measure(self, deployment: Deployment) -> None:
        recovery = self._recovering.get(deployment.name)
        if recovery is None:
            return
        # what the dead one had sent may still appear for a moment
        value = self.gauges.read(deployment.sink, deployment.numbers, recovery.killed_at + 0.15)
        if value is None:
            return
        if recovery.before is SILENT:
            recovery.before = value
        elif value != recovery.before:
            seconds = self.gauges.at[deployment.sink] - recovery.killed_at
            self.recovered.setdefault(deployment.sink, []).append(round(seconds, 3))
            del self._recovering[deployment.name]


def _has_claimed(deployment: Deployment, process: Process) -> bool:
    if deployment.sink == "capture":
        return '"streaming"' in process.said()
    return process.said().count('"partition_claimed"') >= len(deployment.numbers)


def last_words(process: Process) -> str:
    """Why a process ended: the kind and the beginning of its sentence, without numbers that differ each time."""
    for line in reversed(process.said().splitlines()[-60:]):
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if isinstance(said, dict) and said.get("event") in ("flow_stopped", "stopped"):
            return f"{said.get('kind', said['event'])}: {_plain(str(said.get('why', '')))[:60]}"
        if isinstance(said, dict) and said.get("event") == "failed":
            return f"failed {said.get('doing', '')}: {_plain(str(said.get('exception', '')).splitlines()[-1])[:200]}"
    lines = process.said().strip().splitlines()
    return _plain(lines[-1])[:200] if lines else f"said nothing (status {process.status})"


def _plain(text: str) -> str:
    return re.sub(r"[0-9]+", "N", text)
