"""Control runs: with one protection switched off the count of events must fail. What does not fail proves nothing.

python -m tests.crashes.controls [NAME ...]
"""

import signal
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from demo.watcher import EVERY_S
from tests.crashes.installation import Deployment
from tests.crashes.processes import Processes, without_fork_handlers
from tests.crashes.results import RESULTS, replace
from tests.crashes.stage import Stage
from tests.crashes.trial import Outcome, Trial
from tests.crashes.without import PROTECTIONS
from tests.fakes.bigquery_write import Fault

CATCH_UP_S = 20.0
WAIT_S = 60.0


class Control(Trial):
    """The capture and one deployment, whose protection is off; under load."""

    def __init__(self, stage: Stage, name: str, sink: str, **options: Any) -> None:
        self.sink = sink
        sinks = ("capture",) if sink == "capture" else ("capture", sink)
        super().__init__(stage, 1, sinks=sinks, without={sink: (name,)}, catch_up_s=CATCH_UP_S, **options)

    @property
    def deployment(self) -> Deployment:
        return self.installation.of(self.sink)[0]

    def until(self, condition: Callable[[], object], what: str) -> None:
        if not self.supervisor.wait(condition, WAIT_S):
            raise RuntimeError(f"waited {WAIT_S:.0f} s for {what}: see {self.logs}")

    def kill_and_come_back(self, times: int, after_s: float) -> None:
        """Kill the process so long after it began to write, again and again."""
        for _ in range(times):
            self.until(lambda: self.supervisor.moved(self.deployment), "it to write")
            self.supervisor.pause(after_s)
            self.supervisor.kill(self.deployment)
        self.until(lambda: self.supervisor.moved(self.deployment), "it to come back")

    def freeze_and_replace(self, frozen_s: float) -> None:
        """A zombie that wakes up behind its replacement; it is killed when it has had its time."""
        self.supervisor.replace(self.deployment, frozen_s)
        zombie = self.supervisor.zombies[-1]
        self.until(lambda: zombie.woken_at is not None, "the zombie to wake up")
        self.supervisor.pause(2.0)
        zombie.process.kill()
        self.supervisor.zombies.clear()


def _killed(times: int, after_s: float, **behaviour: Any) -> Callable[[Control], None]:
    def scenario(control: Control) -> None:
        if behaviour:
            control.installation.behave(**behaviour)
        control.kill_and_come_back(times, after_s)

    return scenario


def _replaced(frozen_s: float) -> Callable[[Control], None]:
    return lambda control: control.freeze_and_replace(frozen_s)


def _late_append(control: Control) -> None:
    """An append waits inside BigQuery while its process dies and another takes over; then it lands."""
    held = Fault(hold=True)
    server = control.installation.bigquery
    server.expect({2: held})
    control.until(lambda: server.arrived >= 3, "the append that is held back")
    control.supervisor.kill(control.deployment)
    control.supervisor.tick()
    control.until(lambda: control.supervisor.moved(control.deployment), "the successor to write")
    held.gate.set()
    control.supervisor.pause(0.5)


def _partner_down(control: Control) -> None:
    """The partner refuses everything while the process dies."""
    control.installation.behave(status=503)
    control.supervisor.pause(2.0)
    control.supervisor.kill(control.deployment)
    control.supervisor.pause(1.0)
    control.installation.behave()
    control.until(lambda: control.supervisor.moved(control.deployment), "it to come back")


def _older_totals(control: Control) -> None:
    """An answer to a write is lost; its process is frozen and replaced, wakes up later, and writes the same again."""
    supervisor, deployment = control.supervisor, control.deployment
    proxy = control.stage.proxies["redis"]
    zombie = deployment.process
    assert zombie is not None
    supervisor.pause(2.0)  # so that every partition has loaded its totals
    proxy.lose()
    control.until(lambda: proxy.lost > 0, "a lost answer")
    supervisor.pause(1.0)  # it may have been one to the status: by now a write waits, too
    zombie.signal(signal.SIGSTOP)
    proxy.heal()
    deployment.generation += 1
    supervisor.start(deployment)
    control.until(lambda: supervisor.moved(deployment), "the replacement to write")
    supervisor.pause(3.0)
    control.load.stop()
    control.until(lambda: not control.behind(), "the replacement to catch up")
    zombie.signal(signal.SIGCONT)
    supervisor.wait(lambda: control.watcher.went_back, 6.0)
    zombie.kill()


@dataclass(frozen=True)
class Run:
    """One control run. expected: begins a finding that must be there"""

    protection: str
    sink: str
    scenario: Callable[[Control], None]
    expected: str
    poison: float | None = None
    watch_s: float = EVERY_S


RUNS = (
    Run("redis_guard", "redis", _older_totals, "boards: ", watch_s=0.002),
    Run("bigquery_fence", "bigquery", _late_append, "bigquery: doubled"),
    Run("bigquery_question", "bigquery", _killed(2, 1.2), "bigquery: doubled"),
    Run("partner_range", "partner", _killed(3, 0.7, delay_s=0.4), "partner: doubled"),
    Run("partner_key", "partner", _killed(3, 0.7, delay_s=0.4), "partner: doubled"),
    Run("acknowledgement", "partner", _partner_down, "partner: lost"),
    Run("capture_transaction", "capture", _killed(4, 0.5), "kafka: doubled"),
    Run("letters_transaction", "dead_letters", _killed(4, 0.5), "dead_letters: doubled", poison=0.3),
    Run("fence", "partner", _replaced(1.0), "partner: doubled"),
    Run("start_rule", "dead_letters", _killed(2, 0.5), "dead_letters: lost", poison=0.3),
)


def control(stage: Stage, run: Run) -> Outcome:
    """Run it; the outcome's findings tell what the switched-off protection let through."""
    trial = Control(stage, run.protection, run.sink, poison=run.poison, watch_s=run.watch_s)
    try:
        trial.open()
        run.scenario(trial)
        return trial.finish()
    finally:
        trial.close()


def shown(outcome: Outcome, run: Run) -> str:
    """The finding that the run must show; "" where it is missing."""
    return next((finding for finding in outcome.findings if finding.startswith(run.expected)), "")


def main(
    names: Annotated[list[str] | None, typer.Argument(help="protections; default: all")] = None,
    results: Annotated[Path, typer.Option(help="a line of JSON for each")] = RESULTS / "controls.jsonl",
) -> None:
    """Exit code 1 where a control run finds everything in order."""
    without_fork_handlers()
    chosen: Sequence[Run] = [run for run in RUNS if not names or run.protection in names]
    root = Path(tempfile.mkdtemp(prefix="crash-controls-"))
    stage = Stage(root, Processes(True, root))
    silent = 0
    try:
        stage.open()
        for run in chosen:
            outcome = control(stage, run)
            found = shown(outcome, run)
            silent += not found
            replace(
                results,
                {
                    "protection": run.protection,
                    "off": PROTECTIONS[run.protection].is_off,
                    "events": outcome.verdict.events,
                    "found": found or "NOTHING",
                },
                key="protection",
            )
            typer.echo(f"{run.protection}: {found or f'NOT SHOWN: {outcome.findings}'}")
    finally:
        stage.close()
    raise typer.Exit(int(silent > 0))


app = typer.Typer(pretty_exceptions_enable=False)
app.command()(main)

if __name__ == "__main__":
    app()
