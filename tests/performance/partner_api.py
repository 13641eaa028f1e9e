"""A partner that takes everything: python -m tests.performance.partner_api PORT DELAY_MS COUNTER_FILE

HTTP/1.1 with keep-alive. Each request is answered DELAY_MS after it has come, however many are under way; the events of
its body are counted in COUNTER_FILE and forgotten.
"""

import asyncio
import sys
from pathlib import Path

from tests.performance.counter_file import CounterFile

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


class Connection(asyncio.Protocol):
    """One client's connection: requests one after another, with Content-Length."""

    def __init__(self, delay_s: float, events: CounterFile) -> None:
        self._delay_s, self._events = delay_s, events
        self._received = bytearray()
        self._wanted = 0  # bytes of the request that is coming in; 0: its headers are not complete

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while self._complete():
            body = bytes(self._received[: self._wanted])
            del self._received[: self._wanted]
            self._wanted = 0
            asyncio.get_running_loop().call_later(self._delay_s, self._answer, body.count(b'"event_id":'))

    def _complete(self) -> bool:
        if not self._wanted:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return False
            headers = bytes(self._received[:end]).lower()
            length = headers.partition(b"content-length:")[2].split(b"\r\n", 1)[0]
            self._wanted = end + 4 + int(length or 0)
        return len(self._received) >= self._wanted

    def _answer(self, events: int) -> None:
        self._events.add(events)
        self._transport.write(ANSWER)


async def serve(port: int, delay_s: float, events: CounterFile) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(delay_s, events), "127.0.0.1", port)
    await server.serve_forever()


def main(port: str, delay_ms: str, counter: str) -> None:
    asyncio.run(serve(int(port), float(delay_ms) / 1000, CounterFile(Path(counter))))


if __name__ == "__main__":
    main(*sys.argv[1:])
