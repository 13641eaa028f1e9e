"""python -m demo: the whole pipeline on this machine, with a live board. `make demo` calls it."""

import os
import signal
import sys
from pathlib import Path
from typing import Annotated, get_args

import stamina.instrumentation
import typer
from rich.console import Console

from demo.run import ROOT, Demo, Options
from settings import SettingsError, SinkName


def main(
    seconds: Annotated[
        float | None,
        typer.Option(envvar="DEMO_SECONDS", min=1, help="stop after so long, then compare what arrived everywhere"),
    ] = None,
    rate: Annotated[float, typer.Option(envvar="DEMO_RATE", min=0.1, max=20_000, help="events per second")] = 100.0,
    poison: Annotated[float, typer.Option(min=0, max=1, help="share of events that must be rejected")] = 0.002,
    sinks: Annotated[
        str, typer.Option(envvar="DEMO_SINKS", help="destinations; redis, the board, is always one")
    ] = "redis,dead_letters,bigquery,partner",
    kill: Annotated[
        bool,
        typer.Option("--kill", help="kill processes and systems with a key, or by a timer, and watch them come back"),
    ] = False,
    kill_seconds: Annotated[
        float | None,
        typer.Option(
            envvar="DEMO_KILL_SECONDS", min=1, help="one kill every so many seconds; default without terminal: 6"
        ),
    ] = None,
    folder: Annotated[
        Path, typer.Option(envvar="DEMO_FOLDER", help="data, logs and recovery directories; kept for the next start")
    ] = ROOT / ".demo",
) -> None:
    """Start everything, show the board until Ctrl-C.

    KAFKA_BOOTSTRAP_SERVERS, DATABASE_URL, REDIS_URL, BIGQUERY_PROJECT_ID and EXTERNAL_API_URL, where they are set, name
    systems to use instead of the demo's own.
    """
    named = tuple(dict.fromkeys(["redis", *(name.strip() for name in sinks.split(",") if name.strip())]))
    unknown = set(named) - set(get_args(SinkName))
    if unknown:
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: there are {', '.join(get_args(SinkName))}")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # the same end as Ctrl-C
    stamina.instrumentation.set_on_retry_hooks([])  # what is waited for is said in the demo's own words
    console = Console(width=None if sys.stdout.isatty() else 140)
    demo = Demo(Options(named, seconds, rate, poison, kill, kill_seconds), console, folder.resolve())
    code = 1
    try:
        code = demo.run()
    except SettingsError as wrong:
        console.print(str(wrong), highlight=False, markup=False)
    except Exception:
        console.print_exception()  # the process ends below, before anybody else would say it
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave anything behind
        console.show_cursor()
        demo.stop()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # threads may still wait for a download or an answer


if __name__ == "__main__":
    typer.run(main)
