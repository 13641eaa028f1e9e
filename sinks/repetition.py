"""Calls that are made again until they are answered: without end, with backoff, and never past a request to stop."""

from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import stamina

from sources.positions import FlowStopped

WAIT_SECONDS_MAX = 2.0


def repeated(
    on: Any, stopping: Callable[[], bool], abandon: Callable[[], object], **waits: float
) -> Iterator[stamina.Attempt]:
    """`for attempt in repeated(...): with attempt: return call()`: again while the call raises what passes.

    on       exceptions, or a function of one: what passes; anything else is raised at once
    stopping, abandon  asked before each repetition: after SIGTERM `abandon()` ends the process, nothing committed
    waits    wait_initial, wait_max, wait_jitter of stamina, in seconds: wait_max + wait_jitter bounds how long a stop
             request goes unseen between two tries"""
    waits = {"wait_max": WAIT_SECONDS_MAX, **waits}
    for attempt in stamina.retry_context(on=on, attempts=None, timeout=None, **waits):
        if attempt.num > 1 and stopping():
            abandon()
        yield attempt


def never() -> bool:
    """For `stopping`, where no signal is listened to."""
    return False


def give_up() -> NoReturn:
    """For `abandon`, where FlowStopped is what ends the process."""
    raise FlowStopped("Stopped while waiting for an answer: what was not acknowledged is written after the next start.")
