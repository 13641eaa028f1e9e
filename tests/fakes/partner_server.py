"""The demo's partner receiver as the tests run it: in a thread, or as a process that can be killed."""

import contextlib
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from demo.partner_receiver import Store, application, serve

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Receiver:
    """A running receiver: where it listens and what it holds."""

    base: str
    store: Path

    @property
    def url(self) -> str:
        return f"{self.base}/events"

    def behave(self, **behaviour: Any) -> None:
        """Nothing given: healthy."""
        httpx.put(f"{self.base}/behaviour", json=behaviour, trust_env=False).raise_for_status()

    def stats(self) -> dict[str, int]:
        answer: dict[str, int] = httpx.get(f"{self.base}/stats", trust_env=False).json()
        return answer

    def alive(self) -> bool:
        try:
            return httpx.get(f"{self.base}/stats", timeout=2, trust_env=False).is_success
        except httpx.HTTPError:
            return False

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(self.store)) as db:
            return db.execute(sql).fetchall()

    def effects(self) -> list[str]:
        """event_id of every effect, in order."""
        return [row[0] for row in self.rows("SELECT event_id FROM effects ORDER BY seq")]

    def requests(self) -> list[tuple[str, str, int]]:
        """(key, SHA-256 of the body, status) of every request, in order."""
        return [(row[0], row[1], row[2]) for row in self.rows("SELECT key, body_sha256, status FROM requests")]


@contextlib.contextmanager
def receiver_thread(store: Path, token: str | None = None) -> Iterator[Receiver]:
    """In this process, on a free port."""
    held = Store(store)
    listener = socket.create_server(("127.0.0.1", 0))
    server = serve(application(held, token), 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="partner")
    thread.start()
    try:
        yield Receiver(f"http://127.0.0.1:{listener.getsockname()[1]}", store)
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
        held.close()


class ReceiverProcess(Receiver):
    """As a child process on a port that stays through restarts."""

    def __init__(self, store: Path) -> None:
        with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
            self.port = int(listener.getsockname()[1])
        super().__init__(f"http://127.0.0.1:{self.port}", store)
        self.child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Does not wait: see alive()."""
        command = ["-m", "demo.partner_receiver", "--port", str(self.port), "--store", str(self.store)]
        self.child = subprocess.Popen([sys.executable, *command], cwd=ROOT)

    def kill(self) -> None:
        if self.child:
            self.child.kill()
            self.child.wait()
            self.child = None
