"""Requests at a steady rate, however fast the answers are:

    python -m tests.performance.http_load PORT RATE SECONDS < paths

Paths, one a line on standard input, are asked for again and again in their order. A request is due every 1/RATE s and
its time runs from when it was due, so that one slow answer shows in those behind it. On standard output: milliseconds,
status and path of each, tab-separated.
"""

import asyncio
import sys
import time

CONNECTIONS = 64


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> int:
    """GET on a connection that stays open. The status."""
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(int(length.split(b":")[1]))
    return int(head.split(b" ", 2)[1])


async def main(port: int, rate: float, seconds: float, paths: list[str]) -> None:
    due: asyncio.Queue[tuple[float, str] | None] = asyncio.Queue()
    waits: list[tuple[float, int, str]] = []

    async def connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (request := await due.get()) is not None:
            at, path = request
            status = await ask(reader, writer, path)
            waits.append(((time.perf_counter() - at) * 1000, status, path))
        writer.close()

    connections = [asyncio.create_task(connection()) for _ in range(CONNECTIONS)]
    began = time.perf_counter()
    for number in range(int(rate * seconds)):
        at = began + number / rate
        if (left := at - time.perf_counter()) > 0:
            await asyncio.sleep(left)
        due.put_nowait((at, paths[number % len(paths)]))
    for _ in connections:
        due.put_nowait(None)
    await asyncio.gather(*connections)
    print("\n".join(f"{wait:.3f}\t{status}\t{path}" for wait, status, path in waits))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), sys.stdin.read().split()))
