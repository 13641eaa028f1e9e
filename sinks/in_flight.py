"""One write under way while the flow goes on: a sink and the parsing of the next batches work side by side."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue


class Background:
    """Makes calls one after another on a thread of its own.

    The thread is a daemon: a process that fails elsewhere does not wait for a destination that is away."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: SimpleQueue[tuple[Callable[[], object], Future[None]]] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def begin(self, call: Callable[[], object]) -> "Future[None]":
        """Its `result()` waits, and raises what the call raised."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        made: Future[None] = Future()
        self._calls.put((call, made))
        return made

    def _run(self) -> None:
        while True:
            call, made = self._calls.get()
            try:
                call()
            except BaseException as failure:
                made.set_exception(failure)
            else:
                made.set_result(None)
