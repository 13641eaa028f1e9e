"""Every process, started in every wrong way: it is refused with a sentence that says what to do."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipeline import ROOT, Pipeline, free_port

ENGAGEMENT = ("-m", "bytewax.run", "dataflows.engagement")
CAPTURE = ("-m", "bytewax.run", "dataflows.cdc_capture")
SINKS = ("redis", "bigquery", "partner", "dead_letters")
NOWHERE = {  # what each sink needs to be named
    "BIGQUERY_PROJECT_ID": "p",
    "BIGQUERY_EMULATOR_HOST": "127.0.0.1:1",
    "BIGQUERY_EMULATOR_GRPC_HOST": "127.0.0.1:1",
    "EXTERNAL_API_URL": "http://127.0.0.1:1/",
    "EXTERNAL_API_TOKEN": "token",
}
FLOWS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    **{f"flow for {sink}": (ENGAGEMENT, {"SINKS": sink}) for sink in SINKS},
    "process of a cluster": ((*ENGAGEMENT, "-i", "0", "-a", "127.0.0.1:9;127.0.0.1:10"), {"SINKS": "redis"}),
}
PROCESSES: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    **FLOWS,
    "capture": (CAPTURE, {}),
    "api": (("-m", "api"), {}),
    "generator": (("-m", "generator", "--mode", "batch"), {}),
    "provision": (("-m", "operations.provision"), {}),
    "recapture": (("-m", "operations.provision", "--recapture"), {}),
    "dead letters": (("-m", "operations.dead_letters", "list"), {}),
    "audit": (("-m", "operations.audit"), {}),
    "demo": (("-m", "demo"), {}),
}

EXIT_CODES = {"audit": 2}  # its 1 says that systems differ


class Starts:
    """Starts that must fail, side by side, and what each of them said."""

    def __init__(self, work: Path) -> None:
        self._work = work
        self._started: dict[str, tuple[subprocess.Popen[bytes], Path]] = {}

    def start(self, name: str, arguments: tuple[str, ...], env: dict[str, str]) -> None:
        log = self._work / f"{len(self._started)}.log"
        bare = {name: os.environ[name] for name in os.environ if name.startswith(("PATH", "HOME", "COVERAGE"))}
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *arguments], cwd=ROOT, env={**bare, **env}, stdout=output, stderr=subprocess.STDOUT
            )
        self._started[name] = (process, log)

    def refused(self, *words: str) -> None:
        """Every one has ended with its code, no traceback, and these words."""
        problems = []
        for name, (process, log) in self._started.items():
            code = process.wait(120)
            said = log.read_text(encoding="utf-8", errors="replace")
            flat = " ".join(said.split())  # a terminal's lines are broken anywhere
            if code != EXIT_CODES.get(name, 1) or "Traceback" in said or not all(each in flat for each in words):
                problems.append(f"--- {name}: exit code {code}\n{said[-1500:]}")
        assert not problems, "\n".join(problems)

    def said(self, name: str) -> str:
        return self._started[name][1].read_text(encoding="utf-8")

    def close(self) -> None:
        for process, _ in self._started.values():
            if process.poll() is None:
                process.kill()
                process.wait()


@pytest.fixture
def starts(tmp_path: Path) -> Iterator[Starts]:
    made = Starts(tmp_path)
    yield made
    made.close()


def test_with_missing_and_wrong_settings(starts: Starts, tmp_path: Path) -> None:
    for name, (arguments, env) in PROCESSES.items():
        if name != "demo":
            starts.start(name, arguments, {"LOG_LEVEL": "LOUD", **env})
    # It brings what is not named, and misses nothing.
    named = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "REDIS_URL": "redis://127.0.0.1:1", "LOG_LEVEL": "LOUD"}
    named |= {"DATABASE_URL": "postgresql://a@b/c", "DEMO_FOLDER": str(tmp_path / "demo"), **NOWHERE}
    starts.start("demo", PROCESSES["demo"][0], named)
    starts.refused("Settings are missing or wrong", "LOG_LEVEL='LOUD'", "README, Settings")
    assert all(": missing" in starts.said(name) for name in PROCESSES if name != "demo")


def test_on_topics_that_nobody_made(starts: Starts, pipeline: Pipeline) -> None:
    for name in (*FLOWS, "capture", "recapture", "dead letters"):
        arguments, env = PROCESSES[name]
        missing = {"KAFKA_TOPIC": "nobody-made-this", "KAFKA_TOPIC_DEAD_LETTERS": "nor-this"}
        starts.start(name, arguments, pipeline.environment(**missing, **NOWHERE) | env)
    starts.refused("Kafka has no topic", "python -m operations.provision")


def test_on_a_recovery_directory_that_was_not_made(starts: Starts, pipeline: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for number, (name, (arguments, env)) in enumerate(FLOWS.items()):
        directory = tmp_path / ("empty", "missing")[number % 2]
        starts.start(name, (*arguments, *recovery(directory)), pipeline.environment(**NOWHERE) | env)
    starts.refused("is not initialised", f"python -m bytewax.recovery {tmp_path}")


def recovery(directory: Path) -> tuple[str, ...]:
    return ("-r", str(directory), "-s", "5", "-b", "0")


def test_on_a_port_that_is_taken(starts: Starts, pipeline: Pipeline) -> None:
    with socket.create_server(("0.0.0.0", free_port())) as taken:
        port = str(taken.getsockname()[1])
        taking = {"API_HOST": "127.0.0.1", "API_PORT": port, "HEALTH_PORT": port}
        for name in (*FLOWS, "capture", "api"):
            arguments, env = PROCESSES[name]
            starts.start(name, arguments, pipeline.environment(**NOWHERE, **taking) | env)
        starts.refused("cannot be opened (Address already in use)")


def test_on_a_directory_made_for_other_work(starts: Starts, pipeline: Pipeline) -> None:
    """Partitions: tests/integration/dataflows/test_engagement.py, as the directory of a living process."""
    first = pipeline.start()
    pipeline.claimed(first)
    assert first.stop() == 0
    other = {"KAFKA_TOPIC": f"{pipeline.topic}-2"}
    pipeline.provision(**other)
    for name, changed in {"topic": other, "sinks": {"SINKS": "dead_letters"}, "version": {}}.items():
        directory = pipeline.work / name
        shutil.copytree(pipeline.work / "flow", directory)
        if name == "version":
            label = directory / "made-for.json"
            label.write_text(label.read_text().replace('"state_version": ', '"state_version": 99'))
        starts.start(name, (*ENGAGEMENT, *recovery(directory)), pipeline.environment(**changed))
    starts.refused("was made for other work", "an empty one loses nothing")
    assert f"topic: '{pipeline.topic}', now '{pipeline.topic}-2'" in starts.said("topic")
    assert "sinks: ['redis'], now ['dead_letters']" in starts.said("sinks")
    assert "state_version: 99" in starts.said("version")
