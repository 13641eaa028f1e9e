"""The demo as its user meets it: it starts, shows moving numbers, compares, ends at once, and leaves nothing behind."""

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg
import pytest

ROOT = Path(__file__).parents[3]
SYSTEMS = ("KAFKA_", "DATABASE_", "POSTGRES_", "REDIS_", "BIGQUERY_", "GOOGLE_", "EXTERNAL_", "DEMO_")


@pytest.fixture
def folder():
    """Reachable for PostgreSQL's user; long enough kept for a second start."""
    folder = Path(tempfile.mkdtemp(prefix="engagement-demo-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


class Run:
    """One `python -m demo` and what it prints."""

    def __init__(self, folder, *options, counted=False, **env):
        self.log = folder.parent / f"{folder.name}.{time.monotonic_ns()}.out"
        # Coverage slows a start down: only the run whose speed does not matter is counted.
        left_out = SYSTEMS if counted else (*SYSTEMS, "COVERAGE_")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "demo", "--folder", str(folder), *options],
                cwd=ROOT,
                env={**clean, "PYTHONFAULTHANDLER": "1", **env},
                stdout=output,
                stderr=subprocess.STDOUT,
                # A shell that runs the tests in the background has them, and all they start, ignore SIGINT.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    @property
    def text(self):
        return self.log.read_text(errors="replace")

    def end(self, number=signal.SIGINT, patience=20):
        """Send a signal; seconds until the process ended."""
        begun = time.monotonic()
        self.process.send_signal(number)
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # where it is
            self.process.wait(patience)
            raise AssertionError(f"it did not end within {patience} s:\n{self.text}") from None
        return time.monotonic() - begun


@pytest.fixture
def demo(folder):
    runs = []

    def start(*options, counted=False, **env):
        runs.append(Run(folder, *options, counted=counted, **env))
        return runs[-1]

    yield start
    for run in runs:
        run.process.kill()
        run.process.wait()
        run.log.unlink()


def holding(folder):
    """Processes that were started from this folder and still live."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_bytes()
            cwd = os.readlink(process / "cwd")
        except OSError:  # it has just ended
            continue
        if str(folder).encode() in arguments or cwd.startswith(str(folder)):
            found.append(arguments.replace(b"\0", b" ").decode())
    return found


def moving(run):
    """The count of the last line, once it has passed zero."""
    counts = [int(count.replace(",", "")) for count in re.findall(r": ([\d,]+) events", run.text)]
    return bool(counts) and counts[-1] > 0


@pytest.mark.timeout(170)
def test_a_bounded_run_agrees_until_somebody_loses_and_doubles_an_event(demo, folder):
    options = ("--seconds", "4", "--rate", "200", "--poison", "0.02", "--sinks", "redis,dead_letters,partner")
    first = demo(*options, counted=True)
    assert first.process.wait(80) == 0, first.text
    assert first.text.count("equal") == 4, first.text
    assert holding(folder) == []
    with sqlite3.connect(folder / "partner.sqlite3") as store:
        names = [name for (name,) in store.execute("SELECT event_id FROM effects ORDER BY seq LIMIT 2")]
        store.execute("DELETE FROM effects WHERE event_id = ?", names[:1])
        twice = "INSERT INTO effects (event_id, key, body) SELECT event_id, '', body FROM effects WHERE event_id = ?"
        store.execute(twice, names[1:])
    second = demo(*options)
    assert second.process.wait(80) == 1, second.text
    differences = re.sub(r"[│\s]+", " ", second.text)
    assert f"partner: 1 missing: {names[0]} partner: 1 doubled: {names[1]}" in differences, second.text


@pytest.mark.timeout(170)
def test_ctrl_c_ends_it_within_seconds_and_kill_9_leaves_nothing(demo, folder, wait_for):
    first = demo("--rate", "200", "--sinks", "redis,dead_letters")
    wait_for(lambda: moving(first), 60, "the first number")
    assert first.end() < 12, first.text  # 3 s, on a machine that does nothing else
    assert first.process.returncode == 0
    wait_for(lambda: not holding(folder), 10, "its processes to end")
    second = demo("--rate", "200", "--sinks", "redis,dead_letters")
    wait_for(lambda: moving(second), 60, "the first number")
    second.end(signal.SIGKILL)
    wait_for(lambda: not holding(folder), 10, "its processes to end")
    third = demo("--seconds", "3", "--rate", "200", "--sinks", "redis,dead_letters")
    assert third.process.wait(90) == 0, third.text


def test_a_second_demo_on_the_same_folder_is_refused(demo, folder, wait_for):
    first = demo("--sinks", "redis")
    wait_for(lambda: "logs are in" in first.text, 20, "the lock")
    second = demo("--sinks", "redis")
    assert second.process.wait(30) == 1
    assert "Another demo is running" in second.text


def test_an_unknown_destination_is_refused(demo):
    run = demo("--sinks", "redis,tape", counted=True)
    assert run.process.wait(20) == 2
    assert "tape" in run.text


@pytest.mark.timeout(170)
def test_systems_that_the_environment_names_are_used(demo, folder, kafka, postgres, redis_server, unique):
    env = {
        "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap,
        "KAFKA_TOPIC_ENGAGEMENT_EVENTS": unique,
        "KAFKA_TOPIC_DEAD_LETTERS": f"{unique}.dead",
        "KAFKA_CONSUMER_GROUP": unique,
        "CDC_SLOT": unique,
        "CDC_PUBLICATION": unique,
        "DATABASE_URL": postgres,
        "REDIS_URL": redis_server.url,
    }
    run = demo("--seconds", "4", "--sinks", "redis,dead_letters", counted=True, **env)
    assert run.process.wait(90) == 0, run.text
    with psycopg.connect(postgres) as connection:
        assert connection.execute("SELECT count(*) > 0 FROM engagement_events").fetchone() == (True,)
    assert not list(folder.glob("*/kafka"))
