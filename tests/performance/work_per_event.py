"""What the hot path does for one event, counted, not timed: python -m tests.performance.work_per_event

Prints JSON: step -> bytecodes that Python executes per event, and Redis commands per event. For one version of the
code and of Python the numbers are the same on any machine, however busy: a guard that cannot flake.
"""

import json
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from tests.performance.steps import redis_commands, steps

EVENTS = 2000


def bytecodes(step: Callable[[], object]) -> int:
    """How many the interpreter executes in `step` and all that it calls."""
    executed = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal executed
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        executed += event == "opcode"
        return trace

    step()  # what is only done once is done
    sys.settrace(trace)
    try:
        step()
    finally:
        sys.settrace(None)
    return executed


def main() -> None:
    made = steps(EVENTS)
    counted = {name: round(bytecodes(step) / EVENTS, 1) for name, step in made.items()}
    counted["Redis commands"] = round(redis_commands(made["Redis transaction"]()) / EVENTS, 4)
    sys.stdout.write(json.dumps(counted))


if __name__ == "__main__":
    main()
