"""CPU microseconds per event of the pure steps: python -m tests.performance.bench_steps [--events 2000]

The best of many rounds: neighbours on the machine only ever add. Behind them, what rarer input costs.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from engagement.parse import parse
from tests.performance.record import Record, table
from tests.performance.steps import CONTENTS, encoded, envelope, records, rows, steps


def main(
    events: Annotated[int, typer.Option(help="in a batch")] = 2000,
    rounds: Annotated[int, typer.Option(min=1)] = 100,
    output: Annotated[Path | None, typer.Option(help="JSON; default: the committed result")] = None,
) -> None:
    """Measure, print, record."""
    record = Record("bench_steps", {"events": events, "rounds": rounds, "contents": CONTENTS})
    best = {name: _best_us(step, rounds, events) for name, step in {**steps(events), **_rarer(events)}.items()}
    for name, each in best.items():
        record.figure(name, [each])
    table(f"CPU per event, batches of {events:,}", ["step", "us"], [[name, f"{us:.2f}"] for name, us in best.items()])
    record.write(output)


def _rarer(events: int) -> dict[str, Callable[[], object]]:
    made = rows(events)
    values = [encoded(each) for each in made]
    nanoseconds = records([value.replace(b'Z"', b'789Z"') for value in values])
    envelopes = records([encoded(envelope(each)) for each in made])
    poison = records([value.replace(b'"duration_ms":', b'"duration_ms":-') for value in values])
    return {
        "parse, nanosecond times": lambda: parse(nanoseconds),
        "parse, Debezium envelopes": lambda: parse(envelopes),
        "parse, all rejected": lambda: parse(poison),
    }


def _best_us(step: Callable[[], object], rounds: int, events: int) -> float:
    best = float("inf")
    for _ in range(rounds):
        start = time.process_time_ns()
        step()
        best = min(best, time.process_time_ns() - start)
    return best / events / 1000


if __name__ == "__main__":
    typer.run(main)
