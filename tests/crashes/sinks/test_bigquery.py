"""Processes that write to BigQuery are killed and frozen at every step: each row lands once all the same."""

import contextlib
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sinks.fenced_commit import Committed
from tests.fakes.bigquery_child import FENCED, PositionService
from tests.fakes.bigquery_write import FakeBigQuery, Fault
from tests.fakes.positions import FakeBroker

ROOT = Path(__file__).parents[3]
END = 140
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def server() -> Iterator[FakeBigQuery]:
    fake = FakeBigQuery().start()
    broker = FakeBroker(positions={number: Committed(0, "", 0.0) for number in range(4)})
    fake.objects["position"] = PositionService(broker)
    yield fake
    fake.stop()


@pytest.fixture
def start(server: FakeBigQuery) -> Iterator[Start]:
    """start(owner, partitions, end=END, freeze="") -> a writing process."""
    children: list[subprocess.Popen[str]] = []

    def begin(owner: str, partitions: str = "0", end: int = END, freeze: str = "") -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "tests.fakes.bigquery_child", server.address, owner, partitions, str(end)]
        child = subprocess.Popen(
            [*command, *([freeze] if freeze else [])],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        children.append(child)
        return child

    yield begin
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        child.wait()


def assert_once(server: FakeBigQuery, partition: int = 0, end: int = END) -> None:
    assert server.offsets(partition) == list(range(end))


def frozen(child: "subprocess.Popen[str]") -> bool:
    return Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.mark.parametrize("landed", [1, 40, 139])
def test_i04_killed_between_append_and_position(server: FakeBigQuery, start: Start, wait_for: Any, landed: int) -> None:
    first = start("first")
    wait_for(lambda: len(server.rows) >= landed, timeout=30, message="rows")
    first.kill()
    assert start("second").wait(60) == 0
    assert_once(server)


def test_i05_killed_with_an_append_in_the_servers_queue(server: FakeBigQuery, start: Start, wait_for: Any) -> None:
    late = Fault(hold=True)
    server.expect({5: late})
    first = start("first")
    wait_for(lambda: server.arrived == 6, timeout=30, message="the sixth append")
    first.kill()
    first.wait()
    assert start("second").wait(60) == 0
    late.gate.set()
    wait_for(lambda: any(outcome == "finalised" for *_, outcome in server.appends), message="the late append")
    assert_once(server)


def test_i05_control_without_the_fence_there_are_duplicates(server: FakeBigQuery, start: Start, wait_for: Any) -> None:
    server.fence = False
    late = Fault(hold=True)
    server.expect({5: late})
    first = start("first")
    wait_for(lambda: server.arrived == 6, timeout=30, message="the sixth append")
    first.kill()
    first.wait()
    assert start("second").wait(60) == 0
    late.gate.set()
    wait_for(lambda: len(server.rows) > END, message="the late append to land")
    assert len(server.offsets()) - len(set(server.offsets())) == 7


@pytest.mark.parametrize("step", ["create", "register", "landed"])
def test_i06_frozen_before_its_first_append_the_older_never_writes(
    server: FakeBigQuery, start: Start, wait_for: Any, step: str
) -> None:
    older = start("older", freeze=step)
    wait_for(lambda: frozen(older), timeout=30, message="the older process to freeze")
    assert start("newer").wait(60) == 0
    older.send_signal(signal.SIGCONT)
    assert older.wait(60) == FENCED
    assert_once(server)


def test_i06_frozen_between_appends_the_older_ends_at_its_next(
    server: FakeBigQuery, start: Start, wait_for: Any
) -> None:
    slow = Fault(hold=True)
    server.expect({4: slow})
    older = start("older")
    wait_for(lambda: server.arrived == 5, timeout=30, message="the fifth append")
    older.send_signal(signal.SIGSTOP)
    assert start("newer").wait(60) == 0
    slow.gate.set()
    older.send_signal(signal.SIGCONT)
    assert older.wait(60) == FENCED
    assert_once(server)


@pytest.mark.parametrize("seed", [1, 2])
def test_i09_rescaled_and_killed_at_random_with_late_landings(
    server: FakeBigQuery, start: Start, wait_for: Any, seed: int
) -> None:
    """One worker, two, three, one: partitions move, each kill leaves appends that land late or never."""
    chance = random.Random(seed)
    layouts = [["0,1,2,3"], ["0,1", "2,3"], ["0", "1,2", "3"]]
    gates: list[threading.Event] = []
    for number, layout in enumerate(layouts):
        held = {request: Fault(hold=True) for request in chance.sample(range(4, 40), 4)}
        server.expect(held)
        workers = [start(f"{number}.{worker}", partitions) for worker, partitions in enumerate(layout)]
        goal = len(server.rows) + chance.randrange(20, 100)
        wait_for(
            lambda goal=goal, workers=workers: len(server.rows) >= goal or all(w.poll() is not None for w in workers),
            timeout=30,
            message="rows",
        )
        for worker in workers:
            worker.kill()
        for gate in gates:  # of the layout before: lands after its successor took over
            gate.set()
        gates = [fault.gate for fault in held.values()]
    server.expect({})
    assert start("last", "0,1,2,3").wait(90) == 0
    for gate in gates:
        gate.set()
    for partition in range(4):
        assert_once(server, partition)
