"""The capture killed with SIGKILL at every step of a transaction, and at random: neither gap nor double in Kafka."""

import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.fakes.capture import Captured, create_tables, ids_in_table, insert

# Small pages and groups, so that few rows make many transactions; and a death at a step of the nth of them.
FAULT = """
import os, signal
from sinks.transactions import Transactions
from sources import change_stream, postgres_changes, replication_slot
postgres_changes.SNAPSHOT_PAGE_ROWS = 20
change_stream.GROUP_ROWS_MAX = 30
number, step = {number}, {step!r}
done = 0
def die():
    os.kill(os.getpid(), signal.SIGKILL)
run, blocking, create = Transactions.run, Transactions._blocking, replication_slot.create
def counted(self, records=(), *rest):
    global done
    if done == number and step == "before": die()
    run(self, records, *rest)
    if done == number and step == "after": die()
    done += 1
def commit(self, what, call, *arguments):
    if what == "commit" and done == number and step == "open":
        self._opened().flush(10)
        die()
    blocking(self, what, call, *arguments)
def created(*arguments, **options):
    made = create(*arguments, **options)
    if step == "slot": die()
    return made
Transactions.run, Transactions._blocking, replication_slot.create = counted, commit, created
"""


@pytest.fixture
def captured(kafka: Any, postgres: str, unique: str) -> Iterator[Captured]:
    create_tables(postgres)
    topic = kafka.topic()
    kafka.topic(1, name=f"{topic}.positions", cleanup_policy="compact")
    it = Captured(postgres, kafka.properties, topic, unique)
    yield it
    it.close()


# A chain: each start meets what the last death left. First the slot and the snapshot, in pages of 20 rows; a process
# that is left to run until it streams; then transactions of 70 rows in groups of 30.
SNAPSHOT_DEATHS = [
    (0, "slot"),
    (0, "before"),
    (0, "open"),
    (0, "after"),
    (1, "slot"),
    (2, "after"),
    (1, "open"),
    (0, "slot"),
    (1, "after"),
]
STREAM_DEATHS = [(1, "open"), (0, "after"), (0, "before"), (0, "open"), (1, "after")]


@pytest.mark.timeout(400)
def test_killed_at_any_step_of_a_transaction_no_row_is_lost_or_doubled(
    captured: Captured, wait_for: Callable[..., Any]
) -> None:
    def dies(number: int, step: str) -> dict[str, Any]:
        """The position that the death leaves."""
        capture = captured.capture(prelude=FAULT.format(number=number, step=step)).start()
        insert(captured.dsn, 70)
        assert capture.ended(30) == -9, (number, step, capture.log)
        return (captured.positions() or [{"phase": "none"}])[-1]

    insert(captured.dsn, 100)
    met = {dies(*death)["phase"] for death in SNAPSHOT_DEATHS}
    assert met == {"creating", "snapshot"}
    capture = captured.capture().start()
    wait_for(lambda: capture.logged("streaming"), timeout=30)
    capture.kill()
    insert(captured.dsn, 70, transactions=4)
    left = [dies(*death) for death in STREAM_DEATHS]
    assert any("partly" in position for position in left)
    capture = captured.capture().start()
    captured.await_ids(lambda: ids_in_table(captured.dsn), timeout=60)
    assert capture.stop() == 0


def test_killed_at_random_under_load_no_row_is_lost_or_doubled(captured: Captured) -> None:
    small = FAULT.format(number=-1, step="")
    stop = threading.Event()
    insert(captured.dsn, 500)

    def load() -> None:
        while not stop.wait(0.02):
            insert(captured.dsn, random.choice((1, 10, 100)))

    writer = threading.Thread(target=load)
    writer.start()
    try:
        for _ in range(5):
            capture = captured.capture(prelude=small).start()
            captured.reader.look(0.1)
            with pytest.raises(AssertionError, match="still running"):
                capture.ended(1.0 + random.random() * 2)
            capture.kill()
    finally:
        stop.set()
        writer.join()
    capture = captured.capture().start()
    captured.await_ids(lambda: ids_in_table(captured.dsn), timeout=60)
    assert capture.stop() == 0
