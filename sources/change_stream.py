"""Groups of inserted rows from a replication stream, each with the position behind it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from sources.change_position import RECAPTURE, ChangePosition, encoded
from sources.id_set import IdSet
from sources.pgoutput import Begin, Commit, Decoder, Insert, Relation, lsn_text
from sources.positions import FlowStopped
from sources.row_json import RowJson

GROUP_ROWS_MAX = 10_000
GROUP_BYTES_MAX = 16 * 1024 * 1024
GROUP_S_MAX = 0.05  # a group ends with the first commit behind this, or where the stream is dry
# But not sooner after the last one: a Kafka transaction costs the broker 7 ms of CPU, however few rows are in it, and
# every partition it touches a batch in each flow. On two cores 25 ms made nothing visible sooner, and the API slower.
# The first row after a pause waits for nothing.
GROUP_EVERY_S = 0.04
IDS_AT_ONCE = 100_000
IDLE_POSITION_EVERY_S = 10.0  # an idle table must not keep the server from removing its log


@dataclass(frozen=True, slots=True)
class Changes:
    """Records (key, JSON object) in order, and the position that holds once all of them are stored."""

    records: list[tuple[bytes | None, bytes]]
    position: bytes


@dataclass(frozen=True, slots=True)
class CapturedTable:
    """What is captured: the table (schema, name), the column that becomes the records' key, the integer primary key."""

    table: tuple[str, str]
    key: str
    order_by: str


class Messages(Protocol):
    """A replication stream (sources/replication.py)."""

    sent_lsn: int

    def receive(self) -> bytes | None: ...
    def wait(self, seconds: float) -> None: ...
    def confirm(self, lsn: int) -> None: ...
    def ask_for_news(self) -> None: ...


@dataclass(slots=True)
class _Transaction:
    """The transaction being read: rows of the table seen so far; the first `skip` were sent before."""

    commit_lsn: int
    skip: int = 0
    seen: int = 0


@dataclass(slots=True)
class _Pending:
    """Rows that are read and not yet in a group."""

    records: list[tuple[bytes | None, bytes]] = field(default_factory=list)
    size: int = 0
    highest: int | None = None  # id

    def add(self, record: tuple[bytes | None, bytes], id_: bytes | None) -> None:
        self.records.append(record)
        self.size += len(record[1])
        number = int(id_ or 0)
        if self.highest is None or number > self.highest:
            self.highest = number

    @property
    def full(self) -> bool:
        return len(self.records) >= GROUP_ROWS_MAX or self.size >= GROUP_BYTES_MAX


class ChangeStream:
    """Reads on from `position`. A group ends behind a commit, or within a transaction where it is full.

    What was read and not handed on is lost with the object: the next one begins at the position again.

    committed_at  of the newest transaction that was read, seconds since 1970; None: there was no more to read"""

    def __init__(
        self,
        messages: Messages,
        captured: CapturedTable,
        position: ChangePosition,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._messages, self._captured, self._clock = messages, captured, clock
        self._position = position
        self._lsn = position.lsn_number  # all that committed before it is read
        self._partly = position.partly_number
        self._decoder = Decoder()
        self._relation: Relation | None = None
        self._row: RowJson | None = None
        self._id_at = 0
        self._transaction: _Transaction | None = None
        self._pending = _Pending()
        self._told_at = clock()
        self.committed_at: float | None = None

    def group(self, wait_s: float = GROUP_S_MAX) -> Changes | None:
        """The rows that have come, or None. Returns after about `wait_s` if nothing comes."""
        until = self._clock() + wait_s
        while not self._pending.full:
            message = self._messages.receive()
            if message is None:
                whole = bool(self._pending.records) and self._transaction is None
                left = (self._told_at + GROUP_EVERY_S if whole else until) - self._clock()
                if left > 0:
                    self._messages.wait(left)
                elif whole:
                    break
                else:
                    return self._idle()
            elif self._take(message) and self._pending.records and self._clock() > until:
                break
        pending, self._pending = self._pending, _Pending()
        return self._changes(pending)

    def ids_before(self, end: int, stopping: Callable[[], bool]) -> IdSet:
        """The ids of the rows in transactions that committed before the LSN `end`: reads up to there."""
        ids, some = IdSet(), list[int]()
        while not stopping():
            message = self._messages.receive()
            if message is None:
                if self._transaction is None and self._messages.sent_lsn >= end:
                    break
                self._messages.ask_for_news()
                self._messages.wait(GROUP_S_MAX)
                continue
            change = self._decoder.decode(message)
            if isinstance(change, Insert):
                self._look_at(change.relation)
                if self._row is not None:
                    some.append(int(change.values[self._id_at] or 0))
            elif isinstance(change, Begin):
                if change.commit_lsn >= end:
                    break
                self._transaction = _Transaction(change.commit_lsn)
            elif isinstance(change, Commit):
                self._transaction = None
            if len(some) >= IDS_AT_ONCE:
                ids.add(np.array(some, np.int64))
                some.clear()
                self._messages.confirm(self._position.lsn_number)  # nothing new: only that we live
        ids.add(np.array(some, np.int64))
        return ids

    def _take(self, message: bytes) -> bool:
        """Take one message; True if it completes a transaction."""
        change = self._decoder.decode(message)
        if isinstance(change, Insert):
            self._insert(change)
        elif isinstance(change, Begin):
            self._begin(change.commit_lsn)
            self.committed_at = change.committed_at
        elif isinstance(change, Commit):
            self._commit(change)
            return True
        return False

    def _insert(self, change: Insert) -> None:
        self._look_at(change.relation)
        transaction = self._transaction
        if self._row is None or transaction is None:
            return
        transaction.seen += 1
        if transaction.seen > transaction.skip:
            self._pending.add(self._row.record(change.values), change.values[self._id_at])

    def _begin(self, commit_lsn: int) -> None:
        transaction = _Transaction(commit_lsn)
        if self._partly is not None:
            if commit_lsn > self._partly:
                raise FlowStopped(
                    f"The stream has no transaction that committed at {lsn_text(self._partly)}, of which "
                    f"{self._position.sent} rows are sent: somebody else moved or recreated the replication slot. "
                    f"To send what the topic lacks: {RECAPTURE}"
                )
            if commit_lsn == self._partly:
                transaction.skip = self._position.sent
                self._partly = None
        self._transaction = transaction

    def _commit(self, change: Commit) -> None:
        transaction = self._transaction
        if transaction is not None and transaction.seen < transaction.skip:
            raise FlowStopped(
                f"The transaction that committed at {lsn_text(change.commit_lsn)} has {transaction.seen} rows, but "
                f"{transaction.skip} were sent before: the publication or the table was changed in between. To send "
                f"what the topic lacks: {RECAPTURE}"
            )
        self._transaction = None
        self._lsn = change.end_lsn

    def _look_at(self, relation: Relation) -> None:
        """Know the columns of the next row: of another table than the last one, perhaps, or changed since."""
        if relation is self._relation:
            return
        self._relation, self._row = relation, None
        captured = self._captured
        if (relation.schema, relation.name) != captured.table:
            return
        names = [column.name for column in relation.columns]
        for needed in (captured.key, captured.order_by):
            if needed not in names:
                raise FlowStopped(
                    f"The publication no longer sends column {needed} of {'.'.join(captured.table)}, which the capture "
                    "needs: add it again."
                )
        self._row, self._id_at = RowJson(relation.columns, captured.key), names.index(captured.order_by)

    def _idle(self) -> Changes | None:
        """Now and then a position without rows, where the server's log grows with what is not captured."""
        if self._transaction is not None or self._pending.records:
            return None
        self.committed_at = None
        self._lsn = max(self._lsn, self._messages.sent_lsn)
        if self._lsn <= self._position.lsn_number or self._clock() - self._told_at < IDLE_POSITION_EVERY_S:
            return None
        return self._changes(_Pending())

    def _changes(self, pending: _Pending) -> Changes:
        transaction = self._transaction
        if transaction is None:
            self._position = self._position.streaming(self._lsn, highest=pending.highest)
        else:
            self._position = self._position.streaming(
                self._lsn, transaction.commit_lsn, transaction.seen, pending.highest
            )
        self._told_at = self._clock()
        return Changes(pending.records, encoded(self._position))
