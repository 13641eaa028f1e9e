"""What every embedded service has in common: the steps of its life."""

import contextlib
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from demo.services import children
from demo.services.places import free_port, is_free

Say = Callable[[str], None]  # told what is about to take time, before it does


def quietly(text: str) -> None:
    """A `Say` that says nothing."""


class Server(ABC):
    """One service. prepare (slow, any thread), spawn (main thread only), wait_ready (any thread), stop or kill.

    root  its folder: data, configuration, the port numbers of last time; an existing one is gone on with
    log   where its output goes
    """

    name: str
    ports_needed = 1

    def __init__(self, root: Path, *, log: Path | None = None) -> None:
        self.root = root.resolve()
        self.log = log or self.root / f"{self.name.lower()}.log"
        self.child: children.Child | None = None
        self.ports: list[int] = []

    @property
    @abstractmethod
    def address(self) -> dict[str, str]:
        """How a client finds it, as text by name; complete after `prepare`."""

    @abstractmethod
    def prepare(self, say: Say = quietly) -> None:
        """Everything that must be there before it can run; whatever of it is missing."""

    @abstractmethod
    def spawn(self) -> None:
        """Start the process; from the main thread."""

    @abstractmethod
    def wait_ready(self) -> None:
        """Returns when it answers a real request. Raises children.ServiceFailed."""

    def start(self, say: Say = quietly) -> None:
        """All of it, from the main thread."""
        self.prepare(say)
        self.spawn()
        self.wait_ready()

    def stop(self, patience_s: float = 10.0) -> None:
        """A clean end; killed when it takes longer."""
        if self.child:
            self.child.stop(patience_s)

    def kill(self) -> None:
        """kill -9, as a crash would."""
        self.running().kill()

    def pause(self) -> None:
        """Freeze the process: connections stay open, nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    @property
    def pid(self) -> int:
        return self.running().pid

    def running(self) -> children.Child:
        if self.child is None:
            raise RuntimeError(f"{self.name} has not been spawned")
        return self.child

    def choose_ports(self) -> None:
        """The ports of last time where they are still free, so that clients find a restarted service again."""
        remembered = self.root / "ports"
        if not self.ports and remembered.exists():
            with contextlib.suppress(ValueError):
                self.ports = [int(part) for part in remembered.read_text().split()]
        if len(self.ports) != self.ports_needed or not all(is_free(port) for port in self.ports):
            self.ports = [free_port() for _ in range(self.ports_needed)]
        remembered.write_text(" ".join(str(port) for port in self.ports))
