"""Now and then, how far a process has come: what leads from a row's LSN to its offset when all is long over."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

import structlog

EVERY_S = 60.0

log = structlog.get_logger()


def log_progress(fields: Callable[[], Mapping[str, Any]], stopping: Callable[[float], bool]) -> None:
    """Log a line `progress` with these fields every minute in which they changed, from a thread of its own.

    stopping  waits so many seconds; True: the process is about to end
    """

    def run() -> None:
        said: Mapping[str, Any] = {}
        while not stopping(EVERY_S):
            if (now := fields()) != said:
                log.info("progress", **now)
                said = now

    threading.Thread(target=run, name="progress-log", daemon=True).start()
