"""Which processes the demo runs: one deployment of the dataflow per sink, as in production, and what feeds them."""

import sys
from collections.abc import Mapping
from pathlib import Path

from demo.services import children
from demo.supervisor import Job

PARTITIONS = "all"  # of the topic, by one process per sink


def capture(env: Mapping[str, str]) -> Job:
    return Job("capture", _python("-m", "bytewax.run", "dataflows.cdc_capture"), env)


def flow(sink: str, env: Mapping[str, str], recovery: Path, logs: Path) -> Job:
    """The engagement dataflow with this one sink. recovery: folder of all recovery directories"""
    directory = recovery / f"{sink}.{PARTITIONS}"

    def initialise() -> None:
        if not list(directory.glob("part-*.sqlite3")):
            directory.mkdir(parents=True, exist_ok=True)
            command = _python("-m", "bytewax.recovery", str(directory), "1")
            children.run("bytewax.recovery", command, log=logs / f"{sink}.log", env=dict(env))

    command = _python("-m", "bytewax.run", "dataflows.engagement", "-r", str(directory), "-s", "1", "-b", "0")
    return Job(sink, command, {**env, "SINKS": sink}, before=initialise)


def generator(env: Mapping[str, str], rate: float, poison: float) -> Job:
    """Users who watch, listen and click; `poison` is the share of rows that the pipeline must reject."""
    options = ("--mode", "continuous", "--rate", str(rate), "--poison", str(poison))
    return Job("generator", _python("-m", "generator", *options), env, once=True)


def partner_receiver(env: Mapping[str, str], port: int, store: Path) -> Job:
    command = _python("-m", "demo.partner_receiver", "--port", str(port), "--store", str(store))
    return Job("partner-receiver", command, env)


def api(env: Mapping[str, str]) -> Job:
    return Job("api", _python("-m", "api"), env)


def _python(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, *arguments)
