"""Kills the whole pipeline again and again, and counts its events: `make crash-test KILLS=n SEED=s`.

    python -m tests.crashes.harness --kills 100 --seed 7

Trial after trial until so many SIGKILLs were sent; each has a seed of its own, which makes its faults. A trial that
found something keeps its logs, and is repeated with: --seed SEED --trials 1.
"""

import shutil
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from tests.crashes.faults import plan
from tests.crashes.processes import Processes, without_fork_handlers
from tests.crashes.results import RESULTS, append, entry
from tests.crashes.stage import Stage
from tests.crashes.trial import Outcome, Trial


def run(
    stage: Stage, seed: int, kills: int, *, rate: int = 200, only: tuple[str, ...] = (), keep: Path | None = None
) -> Outcome:
    """One trial. keep: folder for its logs where it found something"""
    trial = Trial(stage, seed, rate=rate)
    try:
        outcome = trial.run(plan(seed, kills, only))
    except BaseException:
        _keep(trial, keep)
        raise
    if outcome.findings:
        _keep(trial, keep)
    shutil.rmtree(trial.logs, ignore_errors=True)
    return outcome


def _keep(trial: Trial, keep: Path | None) -> None:
    if keep is not None and trial.logs.exists():
        shutil.copytree(trial.logs, keep / trial.logs.name, dirs_exist_ok=True)


def main(
    kills: Annotated[int, typer.Option(envvar="KILLS", min=1, help="SIGKILLs in all")] = 100,
    seed: Annotated[int, typer.Option(envvar="SEED", help="of the first trial; the next has the next")] = 1,
    per_trial: Annotated[int, typer.Option(min=1, help="SIGKILLs of one trial")] = 25,
    trials: Annotated[int | None, typer.Option(min=1, help="not more than so many")] = None,
    rate: Annotated[int, typer.Option(min=1, help="rows a second")] = 200,
    only: Annotated[str, typer.Option(help="kinds of faults (tests/crashes/faults.py), with commas")] = "",
    cold: Annotated[bool, typer.Option("--cold", help="every process by `python -m`, none forked")] = False,
    results: Annotated[Path, typer.Option(help="a line of JSON is added for each trial")] = RESULTS / "trials.jsonl",
    logs: Annotated[Path, typer.Option(help="of trials that found something")] = Path("/tmp/crash-trials"),
) -> None:
    """Exit code 1 where anything was lost, doubled or otherwise wrong."""
    without_fork_handlers()
    root = Path(tempfile.mkdtemp(prefix="crash-test-"))
    stage = Stage(root, Processes(not cold, root))
    sent = found = number = 0
    kinds = tuple(part for part in only.split(",") if part)
    try:
        stage.open()
        while sent < kills and (trials is None or number < trials):
            began = time.monotonic()
            trial_seed = seed + number
            outcome = run(stage, trial_seed, min(per_trial, kills - sent), rate=rate, only=kinds, keep=logs)
            number += 1
            sent += sum(outcome.kills.values())
            found += bool(outcome.findings)
            append(results, entry(outcome, warm=not cold))
            said = "; ".join(outcome.findings) or "nothing lost, nothing doubled"
            typer.echo(
                f"seed {trial_seed}: {sum(outcome.kills.values())} kills ({sent} of {kills}), "
                f"{outcome.verdict.events} events, {time.monotonic() - began:.0f} s: {said}"
            )
    finally:
        stage.close()
    typer.echo(f"{number} trials, {sent} kills, {found} with findings" + (f"; logs in {logs}" if found else ""))
    raise typer.Exit(int(found > 0))


app = typer.Typer(pretty_exceptions_enable=False)
app.command()(main)

if __name__ == "__main__":
    app()
