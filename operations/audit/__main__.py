"""python -m operations.audit: is every event everywhere, once?

Compares by event id what PostgreSQL, Kafka, Redis, BigQuery, the partner and the dead letters hold of a range of event
time, and names what is missing, doubled or altered. Exit code 0: nothing; 1: something differs; 2: could not look.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from confluent_kafka import KafkaException
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from operations.audit.auditor import WAIT_S, Audit, Options, default_range, us_of
from operations.audit.auditor import Progress as Told
from operations.audit.problem import CouldNotLook
from operations.audit.repair import Repair
from operations.audit.report import Report
from operations.audit.scan import Range
from operations.terminal import in_words
from settings import Need, Settings, SettingsError
from sources.positions import FlowStopped

SINKS = ("redis", "bigquery", "partner", "dead_letters")
SAID_EVERY_ROWS = 500_000


def main(
    begin: Annotated[
        str | None, typer.Option("--from", help="First event time (ISO 8601, UTC). Default: an hour before --to.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="Event time to stop before. Default: a minute ago.")] = None,
    sinks: Annotated[str | None, typer.Option(help="Of redis,bigquery,partner,dead_letters. Default: SINKS.")] = None,
    partner_ids: Annotated[
        Path | None,
        typer.Option(help="What the partner holds: an event id, or an event as JSON, per line.", dir_okay=False),
    ] = None,
    report_file: Annotated[Path | None, typer.Option("--json", help="Write everything there, with all ids.")] = None,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Put right what can be, and look again: send again, correct, rebuild."),
    ] = False,
    max_names: Annotated[int, typer.Option(min=0, help="Ids shown of each finding.")] = 10,
    wait: Annotated[float, typer.Option(min=0, help="Seconds that the capture may take to catch up.")] = WAIT_S,
) -> None:
    """Compare every system with every other, by event id, and say what differs."""
    wanted = _range(begin, end)
    chosen = tuple(name.strip() for name in sinks.split(",")) if sinks else ()
    if unknown := set(chosen) - set(SINKS):
        raise typer.BadParameter(
            f"no sink {', '.join(sorted(unknown))}; there are {', '.join(SINKS)}", param_hint="--sinks"
        )
    with in_words():
        try:
            settings = _settings(chosen)
            with _progress() as told:
                report = _report(settings, Options(wanted, chosen, partner_ids, None, wait, told), repair, max_names)
        except (CouldNotLook, FlowStopped, KafkaException, SettingsError) as failure:
            typer.echo(str(failure), err=True)
            raise typer.Exit(2) from failure
    if report_file:
        report_file.write_text(json.dumps(report.as_json(), indent=1), encoding="utf-8")
    _tell(report, max_names)
    raise typer.Exit(0 if report.clean else 1)


def _report(settings: Settings, options: Options, repair: bool, max_names: int) -> Report:
    """Of the last look: with `repair`, of the one behind the repair."""
    if not repair:
        return Audit(settings, options).run()
    mending = Repair(settings)
    mending.open()
    first = Audit(settings, options)
    report = first.run()
    if report.clean:
        return report
    _tell(report, max_names)
    done = list(mending.run(first))
    for line in done:
        typer.echo(line)
    report = Audit(settings, options).run()
    report.repaired = done
    return report


def _settings(sinks: tuple[str, ...]) -> Settings:
    needs: list[Need] = ["kafka", "postgres"]
    names = sinks or Settings.from_env(*needs).sinks
    needs += [need for need in ("redis", "bigquery") if need in names]
    return Settings.from_env(*needs)


def _range(begin: str | None, end: str | None) -> Range:
    default = default_range()
    end_us = default.end_us if end is None else _microseconds(end, "--to")
    begin_us = end_us - 3_600_000_000 if begin is None else _microseconds(begin, "--from")
    if begin_us >= end_us:
        raise typer.BadParameter("must lie before --to", param_hint="--from")
    return Range(begin_us, end_us)


def _microseconds(text: str, option: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as wrong:
        raise typer.BadParameter(f"{text!r} is no time such as 2025-08-10T14:30Z", param_hint=option) from wrong
    return us_of(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


@contextmanager
def _progress() -> Iterator[Told]:
    """A bar on a terminal; elsewhere a line now and then."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines().tell
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as shown:
        tasks: dict[str, TaskID] = {}

        def tell(stage: str, done: int, of: int) -> None:
            if stage not in tasks:
                tasks[stage] = shown.add_task(stage, total=None)
            shown.update(tasks[stage], completed=done, total=max(of, done) if of else None)

        yield tell


class _Lines:
    """Progress in lines."""

    def __init__(self) -> None:
        self._said: dict[str, int] = {}

    def tell(self, stage: str, done: int, of: int) -> None:
        if stage not in self._said or done - self._said[stage] >= SAID_EVERY_ROWS:
            self._said[stage] = done
            typer.echo(f"reading   {stage}: {done:,}{f' of about {of:,}' if of else ''}", err=True)


def _tell(report: Report, max_names: int) -> None:
    console = Console(width=None if Console().is_terminal else 140)
    console.print(report.table)
    for finding in report.findings:
        typer.echo(f"{'DIFFERS ' if finding.is_error else 'no error'}  {finding.said(max_names)}")
    for note in report.notes:
        typer.echo(note)


if __name__ == "__main__":
    typer.run(main)
