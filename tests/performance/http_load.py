"""Requests at a steady rate, however fast the answers are:

    python -m tests.performance.http_load PORT RATE SECONDS [LEAD] < paths

Paths, one a line on standard input, are asked for again and again in their order. A request is due every 1/RATE s and
its time runs from when it was due, so that one slow answer shows in those behind it. On standard output: milliseconds,
status and path of each, tab-separated; on standard error the share of a core that asking took. The first LEAD seconds
are asked for and not told: connections are opened, and boards computed that nobody has asked for yet.

The server shares its cores with this: a protocol on sockets takes 0.1 ms of CPU a request, streams and a queue 0.5.
"""

import asyncio
import sys
import time
from collections import deque
from typing import cast

import uvloop

CONNECTIONS = 64
END_OF_HEAD = b"\r\n\r\n"
LENGTH = b"content-length: "


class Load:
    """What is due, and who is free to ask for it."""

    def __init__(self) -> None:
        self.due: deque[tuple[float, str]] = deque()  # seconds, path
        self.free: deque[Connection] = deque()  # in turn: the server closes what is idle for five seconds
        self.answers: list[tuple[float, int, str]] = []  # milliseconds, status, path
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.wanted = self.untold = 0
        self.began = 0.0

    def ask(self, at: float, path: str) -> None:
        """By a free connection, or by the next one that is."""
        if self.free:
            self.free.popleft().ask(at, path)
        else:
            self.due.append((at, path))

    def answered(self, by: "Connection", at: float, status: int, path: str) -> None:
        if at < self.began:
            self.untold += 1
        else:
            self.answers.append(((time.perf_counter() - at) * 1000, status, path))
        if self.due:
            by.ask(*self.due.popleft())
        else:
            self.free.append(by)
        if len(self.answers) + self.untold == self.wanted:
            self.done.set_result(None)


class Connection(asyncio.Protocol):
    """One that stays open. A request is one write; of the answer the head is read, and the body's length waited for."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._at, self._path = 0.0, ""
        self._head = b""
        self._left = -1  # bytes of the body; -1: the head is not whole

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        self._load.free.append(self)

    def connection_lost(self, failure: Exception | None) -> None:
        if not self._load.done.done():
            self._load.done.set_exception(failure or ConnectionError(f"the server hung up after {self._path}"))

    def ask(self, at: float, path: str) -> None:
        self._at, self._path = at, path
        self._transport.write(b"GET %b HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % path.encode())

    def data_received(self, data: bytes) -> None:
        if self._left < 0:
            self._head += data
            end = self._head.find(END_OF_HEAD)
            if end < 0:
                return
            begin = self._head.lower().index(LENGTH) + len(LENGTH)
            length = int(self._head[begin : self._head.index(b"\r\n", begin)])
            self._left = length - (len(self._head) - end - len(END_OF_HEAD))
        else:
            self._left -= len(data)
        if self._left == 0:
            status = int(self._head[9:12])
            self._head, self._left = b"", -1
            self._load.answered(self, self._at, status, self._path)


async def main(port: int, rate: float, seconds: float, lead: float, paths: list[str]) -> None:
    loop, load = asyncio.get_running_loop(), Load()
    load.wanted = int(rate * (lead + seconds))
    for _ in range(CONNECTIONS):
        await loop.create_connection(lambda: Connection(load), "127.0.0.1", port)
    began, used = time.perf_counter(), time.process_time()
    load.began = began + lead
    for number in range(load.wanted):
        at = began + number / rate
        if (left := at - time.perf_counter()) > 0:
            await asyncio.sleep(left)
        if load.done.done():
            break  # with what the server did
        load.ask(at, paths[number % len(paths)])
    await load.done
    print("\n".join(f"{wait:.3f}\t{status}\t{path}" for wait, status, path in load.answers))
    print((time.process_time() - used) / (time.perf_counter() - began), file=sys.stderr)


if __name__ == "__main__":
    port, *numbers = sys.argv[1:]
    rate, seconds, lead = map(float, [*numbers, "0"][:3])
    uvloop.run(main(int(port), rate, seconds, lead, sys.stdin.read().split()))
