"""The stream's state: of each kind the newest event, encoded once for all clients. State, never deltas.

Everything here runs on the event loop's thread.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

RETRY_MS = 2000

Key = tuple[str, str]  # (kind, which one of it): ("board", "rolling"), ("content", its id), ("tick", "")


@dataclass(frozen=True, slots=True)
class Slot:
    """version: grows with every change of any kind; frame: the event as it is sent; data: its JSON."""

    version: int
    frame: bytes
    data: bytes


class Hub:
    """boot: names this life of the server, so that an id of a former one is known as such."""

    def __init__(self, boot: str, build: str) -> None:
        self._boot, self._build = boot, build
        self._slots: dict[Key, Slot] = {}
        self._version = 0
        self._changed = asyncio.Event()
        self._closed = False
        self._watched: Counter[str] = Counter()
        self.clients = 0

    def publish(self, events: Mapping[Key, Any]) -> None:
        """Replace the last of each kind, in this order; what has not changed is not sent again."""
        for key, value in events.items():
            data = msgspec.json.encode(value)
            held = self._slots.get(key)
            if held is not None and held.data == data:
                continue
            self._version += 1
            frame = b"event: %b\nid: %b-%d\ndata: %b\n\n" % (key[0].encode(), self._boot.encode(), self._version, data)
            self._slots[key] = Slot(self._version, frame, data)
        self._wake()

    def forget(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self._slots.pop(key, None)

    def close(self) -> None:
        """End every stream: the server stops."""
        self._closed = True
        self._wake()

    def watched(self) -> list[str]:
        """Content ids that somebody looks at."""
        return list(self._watched)

    def resumed_at(self, last_event_id: str) -> int:
        """The version a client has seen; 0 where the id is of another life, or none."""
        boot, _, version = last_event_id.rpartition("-")
        return int(version) if boot == self._boot and version.isdecimal() else 0

    async def events(self, keys: Iterable[Key], seen: int, now: str, content_id: str = "") -> AsyncIterator[bytes]:
        """The frames of one client: what is newer than `seen`, then each change. A slow one misses what is replaced.

        keys  what it wants; now: for its greeting
        """
        self.clients += 1
        if content_id:
            self._watched[content_id] += 1
        try:
            greeting = msgspec.json.encode({"build": self._build, "now": now})
            yield b"retry: %d\n\nevent: hello\ndata: %b\n\n" % (RETRY_MS, greeting)
            sent = dict.fromkeys(keys, seen)
            while not self._closed:
                changed = self._changed
                # By version: the last id a client has stands for everything before it.
                newer = sorted(
                    (slot.version, key)
                    for key in sent
                    if (slot := self._slots.get(key)) is not None and slot.version > sent[key]
                )
                if not newer:
                    await changed.wait()
                    continue
                sent.update({key: version for version, key in newer})
                yield b"".join(self._slots[key].frame for _, key in newer)
        finally:
            self.clients -= 1
            if content_id:
                self._watched[content_id] -= 1
                self._watched += Counter()  # drops zeros
                if content_id not in self._watched:
                    self.forget([("content", content_id)])

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
