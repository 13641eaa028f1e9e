"""Kill any process of the running demo, or a system under it, and see how long it takes to come back."""

import contextlib
import os
import random
import select
import sys
import termios
import threading
import time
import tty
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import redis
from confluent_kafka import KafkaException
from rich.table import Table

from demo.positions import Positions
from demo.services.children import ServiceFailed
from demo.supervisor import Supervisor
from demo.systems import Systems

EVERY_S = 6.0  # where nobody can press a key
LOOK_S = 0.1
REST_S = 8.0  # before the end nothing more is killed: what comes back shall be seen coming back
# Key -> process of the demo, or system. The BigQuery emulator is none: its write streams do not survive a restart.
PROCESSES = {
    "c": "capture",
    "r": "redis",
    "b": "bigquery",
    "p": "partner",
    "d": "dead_letters",
    "e": "partner-receiver",
}
SYSTEMS = {"K": "kafka", "P": "postgres", "R": "redis"}
NAMES = {"kafka": "Kafka", "postgres": "PostgreSQL", "redis": "Redis (Valkey)"}


@dataclass
class Kill:
    """One kill. back_s: until the process wrote again, or the system answered; None: not yet"""

    name: str
    at: float  # seconds since 1970
    killed: float  # monotonic
    back_s: float | None = None

    def __str__(self) -> str:
        then = time.strftime("%H:%M:%S", time.localtime(self.at))
        back = "not back yet" if self.back_s is None else f"back at work after {self.back_s:.1f} s"
        return f"{then}  {self.name} killed, {back}"


@dataclass
class Killer:
    """Call `tick` from the main thread, which alone may spawn; a thread looks who is back.

    every_s  seconds between kills by the timer; None: only by keys
    """

    supervisor: Supervisor
    systems: Systems
    positions: Positions
    every_s: float | None
    seed: int = 1
    kills: list[Kill] = field(default_factory=list)
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2, thread_name_prefix="kill"))
    _answering: "dict[str, Future[None]]" = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)
        self._next = time.monotonic() + (self.every_s or 0.0)
        self._stop = threading.Event()
        self._looking: dict[str, dict[int, int] | None] = {}  # its output when it was killed, None: not read yet
        threading.Thread(target=self._look, name="kill-looks", daemon=True).start()

    @property
    def keys(self) -> str:
        """What can be killed now, with its key."""
        found = [f"[{key}] {name}" for key, name in PROCESSES.items() if self._runs(name)]
        found += [f"[{key}] {NAMES[name]}" for key, name in SYSTEMS.items() if self._is_ours(name)]
        return " ".join(found)

    def tick(self, left_s: float | None) -> None:
        """Kill what a key names, or the timer draws. left_s: of the demo; None: nobody knows"""
        key = pressed()
        if key:
            self.press(key)
        over = left_s is not None and left_s < REST_S
        if self.every_s is not None and not over and time.monotonic() >= self._next:
            self._next = time.monotonic() + self.every_s
            choices = [key for key, name in PROCESSES.items() if self._runs(name) and name not in self._looking]
            choices += [key for key, name in SYSTEMS.items() if self._is_ours(name) and name not in self._answering]
            if choices:
                self.press(self._rng.choice(choices))
        for name, future in list(self._answering.items()):
            if future.done():
                del self._answering[name]
                if isinstance(future.exception(), ServiceFailed):
                    # PostgreSQL: the processes of the one that was killed may outlive it for a moment
                    self._start_again(name, next(k for k in reversed(self.kills) if k.name == NAMES[name]))
                else:
                    future.result()

    def press(self, key: str) -> None:
        """kill -9 what this key names; nothing where it names nothing that runs."""
        if key in PROCESSES and self._runs(PROCESSES[key]):
            self._kill_process(PROCESSES[key])
        elif key in SYSTEMS and self._is_ours(SYSTEMS[key]) and SYSTEMS[key] not in self._answering:
            self._kill_system(SYSTEMS[key])

    @property
    def coming_back(self) -> frozenset[str]:
        """Systems that were killed and do not answer yet."""
        return frozenset(self._answering)

    def settled(self) -> bool:
        """Whether all that was killed has come back."""
        return all(kill.back_s is not None for kill in self.kills)

    def stop(self) -> None:
        self._stop.set()
        self._pool.shutdown(wait=False)

    def table(self) -> Table:
        """How long each took, by name."""
        shown = Table(title="Killed, and back at work", title_justify="left")
        for column in ("killed", "times", "shortest, s", "longest, s"):
            shown.add_column(column, justify="left" if column == "killed" else "right")
        for name in dict.fromkeys(kill.name for kill in self.kills):
            of = [kill.back_s for kill in self.kills if kill.name == name]
            times = [seconds for seconds in of if seconds is not None]
            least, most = (f"{min(times):.1f}", f"{max(times):.1f}") if len(times) == len(of) else ("–", "not back")
            shown.add_row(name, str(len(of)), least, most)
        return shown

    def _kill_process(self, name: str) -> None:
        self.supervisor.kill(name)
        self._noted(name)
        self._looking[name] = None

    def _kill_system(self, system: str) -> None:
        server = self.systems.servers[system]
        server.kill()
        self._start_again(system, self._noted(NAMES[system]))

    def _start_again(self, system: str, kill: Kill) -> None:
        server = self.systems.servers[system]
        server.spawn()

        def answer() -> None:
            server.wait_ready()
            kill.back_s = time.monotonic() - kill.killed

        self._answering[system] = self._pool.submit(answer)

    def _noted(self, name: str) -> Kill:
        self.kills.append(Kill(name, time.time(), time.monotonic()))
        return self.kills[-1]

    def _runs(self, name: str) -> bool:
        each = self.supervisor.jobs.get(name)
        return each is not None and each.child is not None and each.child.alive

    def _is_ours(self, system: str) -> bool:
        server = self.systems.servers.get(system)
        return server is not None and server.child is not None

    def _look(self) -> None:
        """Who was killed is back as soon as its output moves."""
        while not self._stop.wait(LOOK_S):
            for name, before in list(self._looking.items()):
                with contextlib.suppress(redis.RedisError, KafkaException, TimeoutError):
                    now = self._output(name)
                    if before is None:
                        self._looking[name] = now
                    elif now != before:
                        self._back(name)

    def _output(self, name: str) -> dict[int, int]:
        """Kafka partition -> how far it has come; the receiver as far as the partner's flow gets with it."""
        if name == "capture":
            return self.positions.ends()
        return self.positions.of("partner" if name == "partner-receiver" else name)

    def _back(self, name: str) -> None:
        """Also those that were killed again before they had written anything."""
        del self._looking[name]
        for kill in self.kills:
            if kill.name == name and kill.back_s is None:
                kill.back_s = time.monotonic() - kill.killed


def pressed() -> str:
    """The key that was pressed since the last look; "" for none, or without a terminal."""
    if not sys.stdin.isatty() or not select.select([sys.stdin], [], [], 0)[0]:
        return ""
    return os.read(sys.stdin.fileno(), 1).decode(errors="replace")


@contextlib.contextmanager
def single_keys() -> Iterator[None]:
    """While this runs a key counts without Enter, and is not shown. Ctrl-C stays what it is."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
