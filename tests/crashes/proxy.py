"""A TCP proxy in front of a service whose answers it can lose, hold back or cut: one thread for all connections."""

import contextlib
import selectors
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass, field

CHUNK = 1 << 16


@dataclass
class _Side:
    """One socket of a pair; `out` waits to be written to it: (when, bytes)."""

    socket: socket.socket
    answers: bool  # what is read here is an answer of the service
    other: "_Side | None" = None
    out: deque[tuple[float, bytes]] = field(default_factory=deque)
    open: bool = True


class Proxy:
    """Listens on `port` of the loopback interface and passes everything on to `target`.

    losing    answers of the service are thrown away; `heal` then cuts all connections, for their bytes are gone
    lost      so many have been
    delay_s   answers are held back so long
    """

    def __init__(self, target: int, port: int = 0) -> None:
        self.target = target
        self.losing, self.delay_s = False, 0.0
        self.lost = 0
        self._listener = socket.create_server(("127.0.0.1", port))
        self._listener.setblocking(False)
        self.port = int(self._listener.getsockname()[1])
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._pairs: list[_Side] = []
        self._cut = self._ended = False
        self._thread = threading.Thread(target=self._run, name=f"proxy {self.port}", daemon=True)
        self._thread.start()

    def lose(self) -> None:
        self.losing = True

    def heal(self) -> None:
        """Pass on again; connections that lost bytes are cut."""
        if self.losing:
            self.cut()
        self.losing, self.delay_s = False, 0.0

    def cut(self) -> None:
        self._cut = True

    def close(self) -> None:
        self._ended = True
        self._thread.join(5)

    def _run(self) -> None:
        while not self._ended:
            for key, mask in self._selector.select(0.02):
                if key.fileobj is self._listener:
                    self._accept()
                elif mask & selectors.EVENT_READ:
                    self._read(key.data)
            for side in list(self._pairs):
                if side.out:
                    self._write(side)
            if self._cut:
                self._cut = False
                for side in list(self._pairs):
                    self._end(side)
        for side in list(self._pairs):
            self._end(side)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            client, _ = self._listener.accept()
            try:
                service = socket.create_connection(("127.0.0.1", self.target), timeout=1)
            except OSError:
                client.close()
                return
            here, there = _Side(client, answers=False), _Side(service, answers=True)
            here.other, there.other = there, here
            for side in (here, there):
                side.socket.setblocking(False)
                side.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._selector.register(side.socket, selectors.EVENT_READ, side)
                self._pairs.append(side)

    def _read(self, side: _Side) -> None:
        if not side.open or side.other is None:
            return
        try:
            data = side.socket.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end(side)
        elif side.answers and self.losing:
            self.lost += 1
        else:
            side.other.out.append((time.monotonic() + (self.delay_s if side.answers else 0), data))
            self._write(side.other)

    def _write(self, side: _Side) -> None:
        while side.open and side.out and side.out[0][0] <= time.monotonic():
            due, data = side.out.popleft()
            try:
                sent = side.socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._end(side)
                return
            if sent < len(data):
                side.out.appendleft((due, data[sent:]))
                return

    def _end(self, side: _Side) -> None:
        for each in (side, side.other):
            if each is not None and each.open:
                each.open = False
                with contextlib.suppress(KeyError, ValueError):
                    self._selector.unregister(each.socket)
                each.socket.close()
                self._pairs.remove(each)
