"""A ledger of the capture in memory, and the capture's source run by hand against a real server."""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sources.change_position import ChangePosition, decoded, encoded
from sources.change_stream import CapturedTable, Changes
from sources.id_set import IdSet
from sources.postgres_changes import PostgresChanges, PostgresChangesPart
from sources.topic_ids import TopicIds

TABLE = CapturedTable(("public", "engagement_events"), key="content_id", order_by="id")


class Crash(Exception):
    """The process dies here."""


class Abandoned(Exception):
    """What `abandon()` does in a test."""


@dataclass
class MemoryLedger:
    """What was stored survives; a crash may hit before or after any write.

    crash_at  number of the write that crashes, from 0, and whether it has stored before it did"""

    acknowledged: bytes | None = None
    records: list[tuple[bytes | None, bytes]] = field(default_factory=list)
    writes: int = 0
    crash_at: tuple[int, bool] | None = None
    sent_up_to: int | None = None  # what retention has removed of `records`
    emptied: bool = False

    def recapture(self) -> None:
        """What `operations.provision --recapture` stores."""
        position = ChangePosition("", 0, "", "creating") if self.acknowledged is None else decoded(self.acknowledged)
        self.acknowledged = encoded(position.captured_again())

    def open(self) -> bytes | None:
        return self.acknowledged

    def write(self, records: list[tuple[bytes | None, bytes]], position: bytes) -> None:
        crash = self.crash_at is not None and self.writes == self.crash_at[0]
        if crash and self.crash_at is not None and not self.crash_at[1]:
            raise Crash
        self.writes += 1
        self.records += records
        self.acknowledged = position
        if crash:
            raise Crash

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(value) for _, value in self.records]

    @property
    def ids(self) -> list[int]:
        return [row["id"] for row in self.rows]

    @property
    def position(self) -> dict[str, Any]:
        return dict(json.loads(self.acknowledged or b"{}"))


class Running:
    """`stopping` of a flow: asked by setting `asked`."""

    asked = False

    def __call__(self) -> bool:
        return self.asked

    def working(self, part: str) -> None: ...
    def rested(self, part: str) -> None: ...


def abandon() -> None:
    raise Abandoned


@contextlib.contextmanager
def ending(doing: str) -> Iterator[None]:
    yield


def source(dsn: str, slot: str, ledger: MemoryLedger) -> PostgresChanges:
    return PostgresChanges(
        dsn,
        TABLE,
        slot=slot,
        publication="engagement",
        ledger=ledger,
        stopping=Running(),
        abandon=abandon,
        ending=ending,
        ids_sent=lambda: TopicIds(IdSet(ledger.ids), ledger.sent_up_to, ledger.emptied),
    )


@contextlib.contextmanager
def part(dsn: str, slot: str, ledger: MemoryLedger) -> Iterator[PostgresChangesPart]:
    it = source(dsn, slot, ledger).build_part("step", slot, None)
    try:
        yield it
    finally:
        it.close()


def deliver(it: PostgresChangesPart, ledger: MemoryLedger) -> list[Changes]:
    """One activation: read, then store what came."""
    changes = it.next_batch()
    for each in changes:
        ledger.write(each.records, each.position)
    return changes


def deliver_until(it: PostgresChangesPart, ledger: MemoryLedger, done: Callable[[], object], tries: int = 300) -> None:
    """Go on until `done()`. Raises AssertionError where it never is (each try takes up to 50 ms)."""
    for _ in range(tries):
        if done():
            return
        deliver(it, ledger)
    raise AssertionError(f"not done after {tries} activations; {len(ledger.records)} rows, at {ledger.position}")
