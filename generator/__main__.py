"""python -m generator: realistic engagement events into PostgreSQL. `--help` says the rest."""

import secrets
import signal
import time
from enum import StrEnum
from types import FrameType
from typing import Annotated

import stamina.instrumentation
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from generator.database import CannotGenerate, Database, Stopped
from generator.rows import Stream
from generator.run import Plan, Result, batch, continuous, historical, write
from settings import Settings

LOG_EVERY_S = 10.0  # where the output is no terminal


class Mode(StrEnum):
    """How rows lie in time."""

    continuous = "continuous"
    batch = "batch"
    historical = "historical"


class Stopping:
    """Whether SIGINT or SIGTERM has come. A second one ends the process at once."""

    def __init__(self) -> None:
        self._asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def __call__(self) -> bool:
        return self._asked

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        signal.signal(number, signal.SIG_DFL)


class Shown:
    """Progress on a terminal as a bar with the time left; elsewhere as a line every ten seconds."""

    def __init__(self, console: Console, rows_max: int | None, seconds_max: float | None) -> None:
        self._console, self._rows_max, self._seconds_max = console, rows_max, seconds_max
        self._started = self._said = time.monotonic()
        # Time left follows whichever limit there is; a bar without one shows that something moves.
        total = rows_max if rows_max is not None else seconds_max
        self.bar = Progress(
            TextColumn("{task.fields[rows]:>12,} rows  {task.fields[rate]:>8,.0f} rows/s"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self.bar.add_task("", total=total, rows=0, rate=0.0)

    def __call__(self, rows: int) -> None:
        now = time.monotonic()
        elapsed = now - self._started
        rate = rows / max(elapsed, 1e-3)
        self.bar.update(self._task, completed=rows if self._rows_max is not None else elapsed, rows=rows, rate=rate)
        if not self._console.is_terminal and now - self._said >= LOG_EVERY_S:
            self._said = now
            left = f", {(self._rows_max - rows) / max(rate, 1e-3):.0f} s left" if self._rows_max is not None else ""
            self._console.print(f"{rows:,} rows, {rate:,.0f} rows/s{left}", highlight=False)


def main(
    mode: Annotated[
        Mode,
        typer.Option(
            help="continuous: as they happen, until stopped; batch: one, then exit; "
            "historical: over the last whole days, then exit"
        ),
    ] = Mode.continuous,
    rate: Annotated[float | None, typer.Option(min=0.01, max=200_000, help="rows per second; continuous: 100")] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, max=5_000_000, help="batch: its rows (1000); else the most rows of one transaction (5000)"),
    ] = None,
    historical_days: Annotated[int, typer.Option(min=1, max=1_800, help="historical: days before today")] = 30,
    seed: Annotated[
        int | None, typer.Option(min=0, help="the same seed gives the same rows, relative to the start")
    ] = None,
    poison: Annotated[float, typer.Option(min=0, max=1, help="share of rows that the pipeline must reject")] = 0.0,
    duration: Annotated[float | None, typer.Option(min=0, help="stop after so many seconds")] = None,
    events: Annotated[int | None, typer.Option(min=1, help="stop after so many rows; historical: 100000")] = None,
) -> None:
    """Write realistic engagement events into PostgreSQL (DATABASE_URL): sessions of users with the contents that are
    there, some late, a few odd. Ctrl-C ends it cleanly."""
    stopping = Stopping()
    console = Console(stderr=True)
    stamina.instrumentation.set_on_retry_hooks([])  # Database says once that it waits
    dsn = Settings.from_env("postgres").postgres
    seed = secrets.randbits(32) if seed is None else seed
    database = Database(dsn, lambda text: console.print(text, highlight=False), stopping)
    try:
        contents = database.contents()
        plan = _plan(mode, time.time_ns() // 1_000, rate, batch_size, historical_days, events)
        stream = Stream(contents, plan.seconds_of, seed=seed, poison=poison, late=plan.late, now_s=plan.now_s)
        shown = Shown(console, plan.rows_max, duration)
        with shown.bar:
            result = write(plan, stream, database, stopping=stopping, seconds_max=duration, progress=shown)
    except CannotGenerate as error:
        console.print(f"generator: {error}", highlight=False)
        raise typer.Exit(1) from error
    except Stopped as error:
        console.print("stopped before the first row")
        raise typer.Exit(0) from error
    finally:
        database.close()
    Console().print(_summary(result, seed, plan), highlight=False)


def _plan(mode: Mode, now_us: int, rate: float | None, batch_size: int | None, days: int, events: int | None) -> Plan:
    if mode is Mode.continuous:
        return continuous(now_us, rate, events, batch_size)
    if mode is Mode.batch:
        return batch(now_us, rate, batch_size or events)
    return historical(now_us, days, rate, events, batch_size)


def _summary(result: Result, seed: int, plan: Plan) -> str:
    rate = result.rows / result.seconds if result.seconds else 0.0
    asked = f" of {plan.pace:,.0f} asked" if plan.pace else ""
    stalled = f", {result.stalled_s:.1f} s lost waiting for PostgreSQL" if result.stalled_s else ""
    return f"{result.rows:,} rows in {result.seconds:.1f} s: {rate:,.0f} rows/s{asked}{stalled}; seed {seed}"


if __name__ == "__main__":
    typer.run(main)
