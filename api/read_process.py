"""Where the totals are read: never on the event loop, and in production in a process of its own.

A board takes 2 to 8 ms of Python. A thread that computes one holds the interpreter's lock when the loop has an answer
to give, and as long as the kernel gives its core to others: answers of 0.3 ms waited for 30.
"""

import asyncio
import multiprocessing
import os
import pickle
import socket
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import structlog

from api.queries import TotalsReader
from settings import Settings
from sinks.redis_client import connect
from sinks.redis_layout import Group

LENGTH = Struct("<q")  # of a pickled question or answer, before it
USERS_KEPT_S = 0.7  # with how long a board is fresh (api/__main__.py) a second at most
# Readers are forks of a process that has imported what they need, and no thread: they start at once and share memory.
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["api.reads", __name__])

log = structlog.get_logger()
P = ParamSpec("P")
T = TypeVar("T")


class Read(Protocol):
    """`await read(what, ...)` is what(totals, ...), or raises what that raises."""

    async def __call__(
        self, what: Callable[Concatenate[TotalsReader, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T: ...


@dataclass(frozen=True, slots=True)
class Readers:
    """Who reads what. Each does one thing after the other, and a content is not to wait for a board."""

    boards: Read
    contents: Read


def in_threads(totals: TotalsReader) -> Readers:
    """Each read on a thread of this process."""

    async def read(what: Callable[Concatenate[TotalsReader, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.to_thread(what, totals, *args, **kwargs)

    return Readers(read, read)


def in_processes(settings: Settings) -> Readers:
    """Each kind in a process of its own."""
    return Readers(ReadProcess(settings), ReadProcess(settings))


class ReadProcess:
    """Reads in a process of its own, one after the other, in the order they were asked for. When that process dies
    another one takes its place. It ends with this one, however this one ends."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._turn = asyncio.Lock()
        self._start()

    async def __call__(
        self, what: Callable[Concatenate[TotalsReader, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        # Shielded: one who goes away in the middle would leave his answer to the next.
        answer: T = await asyncio.shield(asyncio.create_task(self._ask((what, args, kwargs))))
        return answer

    def _start(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._process = FORKED.Process(target=_serve, args=(theirs, self._settings), daemon=True)
        self._process.start()
        theirs.close()

    async def _ask(self, question: tuple[Any, ...]) -> Any:
        async with self._turn:
            try:
                answer, failure = await self._exchange(question)
            except (asyncio.IncompleteReadError, OSError):
                self._process.kill()
                self._process.join()
                log.warning("reader_died", exit_code=self._process.exitcode)
                if self._streams is not None:
                    self._streams[1].close()  # asyncio keeps it open for writing
                self._start()
                answer, failure = await self._exchange(question)
        if failure is not None:
            raise failure
        return answer

    async def _exchange(self, question: tuple[Any, ...]) -> Any:
        self._streams = self._streams or await asyncio.open_connection(sock=self._socket)
        reader, writer = self._streams
        writer.write(_framed(question))
        await writer.drain()
        (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
        return pickle.loads(await reader.readexactly(length))


def totals_over(client: Any, settings: Settings) -> TotalsReader:
    """The totals that the settings name. client: of sinks.redis_client.connect"""
    layout = Group(
        settings.kafka_consumer_group, settings.kafka_topic_engagement_events, settings.redis_aggregation_window_minutes
    )
    return TotalsReader(
        client,
        layout,
        lateness_seconds=settings.allowed_lateness_seconds,
        users_kept_s=USERS_KEPT_S,
    )


def _serve(asker: socket.socket, settings: Settings) -> None:
    """Answer until the asker is gone. In a session of its own: Ctrl-C is for the asker, and the kernel, which shares
    cores by session first, does not take from the event loop what a board needs."""
    os.setsid()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    asked = asker.makefile("rb")
    totals: TotalsReader | None = None
    while head := asked.read(LENGTH.size):
        (length,) = LENGTH.unpack(head)
        what, args, kwargs = pickle.loads(asked.read(length))
        answer: Any = None
        failure: Exception | None = None
        try:
            # Here, since a Redis Cluster is contacted, and may not answer.
            totals = totals or totals_over(connect(settings.redis, settings.redis_cluster_nodes), settings)
            answer = what(totals, *args, **kwargs)
        except Exception as raised:
            raised.add_note(traceback.format_exc())  # frames do not travel
            failure = raised
        asker.sendall(_framed((answer, failure)))


def _framed(value: Any) -> bytes:
    pickled = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    return LENGTH.pack(len(pickled)) + pickled


def _end_with_parent() -> None:
    """At once, even while Redis is waited for."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(0)
