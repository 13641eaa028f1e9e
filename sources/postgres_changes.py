"""The rows of one PostgreSQL table as a Bytewax source: those that are there, then each insert, in commit order.

No row is left out and none comes twice, wherever the process dies: rows and position are stored together (by the
ledger), the position says exactly which rows it covers, and the server forgets only what the ledger has acknowledged.

The first start creates the slot with an exported snapshot: what committed before the slot's LSN is in the snapshot,
what committed after it comes by the slot. A snapshot dies with its connection. If it did before all its rows were
sent, a newer one serves: what it shows behind the last id sent, without the rows that the slot is going to send.

Where the slot was lost, or the server is another one, rows may be missing, and the start is refused with their ids. The
operator then marks the position (`again`), and the capture begins as at first, without the rows that the topic holds.
"""

import contextlib
from collections.abc import Callable
from secrets import token_hex
from typing import Any, Protocol

import msgspec
import psycopg
import stamina
import structlog
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from sources import replication_slot
from sources.change_position import RECAPTURE, ChangePosition, decoded, encoded, highest_of
from sources.change_stream import CapturedTable, Changes, ChangeStream
from sources.id_set import IdSet
from sources.kafka import Stopping
from sources.pgoutput import lsn_text
from sources.positions import FlowStopped
from sources.postgres_session import Session
from sources.replication import ReplicationStream
from sources.table_snapshot import TableSnapshot, rows_between, rows_beyond
from sources.topic_ids import TopicIds

log = structlog.get_logger()

SNAPSHOT_PAGE_ROWS = 5_000
WAIT_S_MAX = 2.0


class Ledger(Protocol):
    """Stores rows and position together, and fences: the sink of the same process."""

    acknowledged: bytes | None  # the last position stored

    def open(self) -> bytes | None:
        """Fence the predecessor, then read its last position. None: this capture has none."""

    def write(self, records: list[tuple[bytes | None, bytes]], position: bytes) -> None:
        """Store at once. Raises Fenced where another process has opened the ledger."""


class PostgresChanges(FixedPartitionedSource[Changes, None]):
    """One part: a slot has one reader. Bytewax's own snapshots hold nothing, the position is the ledger's."""

    def __init__(
        self,
        dsn: str,
        captured: CapturedTable,
        *,
        slot: str,
        publication: str,
        ledger: Ledger,
        stopping: Stopping,
        abandon: Callable[[], object],
        ending: Callable[[str], Any],
        ids_sent: Callable[[], TopicIds],
    ) -> None:
        """ids_sent  reads which rows the topic holds; asked after the ledger was opened, so nobody else adds any"""
        self.dsn, self.captured = dsn, captured
        self.slot, self.publication = slot, publication
        self.ledger, self.ids_sent = ledger, ids_sent
        self.stopping, self.abandon, self.ending = stopping, abandon, ending
        self._part: PostgresChangesPart | None = None

    def lag_s(self, now: float) -> float | None:
        """Age of the newest transaction that was read while others wait, 0 when none does; None: not known, in a
        snapshot or without PostgreSQL. now: seconds since 1970. May be called from any thread."""
        return None if self._part is None else self._part.lag_s(now)

    def list_parts(self) -> list[str]:
        return [self.slot]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> "PostgresChangesPart":
        """Fence the predecessor, check that nothing was lost, begin where it stopped. Blocks, and says so, while
        PostgreSQL or Kafka is away."""
        with self.ending(f"starting the capture of slot {self.slot}"):
            part = self._part = PostgresChangesPart(self)
            self.stopping.working(for_part)
            return part
        raise AssertionError("unreachable")

    def session(self, *, replication: bool) -> Session:
        return Session(self.dsn, replication=replication, stopping=self.stopping, abandon=self.abandon)


class PostgresChangesPart(StatefulSourcePartition[Changes, None]):
    """Reads the snapshot, then the stream; connects anew, from the position, whenever the connection ends."""

    def __init__(self, source: PostgresChanges) -> None:
        self._source, self._ledger = source, source.ledger
        self._snapshot: TableSnapshot | None = None
        self._stream: ReplicationStream | None = None
        self._changes: ChangeStream | None = None
        self._in_topic: TopicIds | None = None
        self._sent_now = IdSet()  # ids of the snapshot's rows that this process has sent
        self._emitted = self._ledger.open()
        self._connect()

    def next_batch(self) -> list[Changes]:
        with self._source.ending(f"reading slot {self._source.slot}"):
            if self._ledger.acknowledged != self._emitted:
                return []  # the next group builds on this one
            if self._source.stopping():
                self._rest()
            try:
                changes = self._read()
            except psycopg.OperationalError as failure:
                log.warning("postgres_connection_lost", error=str(failure).strip())
                # A newer capture has ended it, perhaps: find out, before its connection is ended in turn.
                self._store(self._acknowledged())
                self._connect()
                return []
            if changes is None:
                return []
            self._emitted = changes.position
            return [changes]
        raise AssertionError("unreachable")

    def lag_s(self, now: float) -> float | None:
        changes = self._changes
        if changes is None:
            return None
        return 0.0 if changes.committed_at is None else max(0.0, now - changes.committed_at)

    def snapshot(self) -> None:
        """Nothing: the position is stored with the rows."""

    def close(self) -> None:
        self._disconnect()

    def _rest(self) -> None:
        """All that was read is stored. The server waits for its clients when it stops, so leave it in order."""
        if self._stream is not None:
            self._stream.confirm(self._acknowledged().lsn_number)
        self._disconnect()
        self._source.stopping.rested(self._source.slot)
        raise StopIteration

    def _read(self) -> Changes | None:
        if self._snapshot is not None:
            return self._page(self._snapshot)
        if self._stream is None or self._changes is None:
            self._connect()  # the snapshot is complete
            return None
        self._stream.confirm(self._acknowledged().lsn_number)
        return self._changes.group()

    def _page(self, snapshot: TableSnapshot) -> Changes:
        """The next rows of the snapshot; behind the last ones the stream begins."""
        position = self._acknowledged()
        page = snapshot.page(position.after, SNAPSHOT_PAGE_ROWS)
        if page is None:
            return self._snapshot_complete(position)
        self._sent_now.add(page.ids)
        highest = highest_of(position.highest, *page.ids[-1:].tolist())
        return Changes(page.records, encoded(msgspec.structs.replace(position, after=page.last, highest=highest)))

    def _snapshot_complete(self, position: ChangePosition) -> Changes:
        self._disconnect()
        sent, self._sent_now, self._in_topic = self._sent_now, IdSet(), None
        log.info(
            "recaptured" if position.again else "snapshot_complete",
            slot=self._source.slot,
            rows=len(sent),
            first_id=sent.lowest,
            last_id=sent.highest,
            lsn=position.lsn,
        )
        return Changes([], encoded(position.streaming(position.lsn_number)))

    def _acknowledged(self) -> ChangePosition:
        if self._ledger.acknowledged is None:
            raise RuntimeError("no position is stored yet")
        return decoded(self._ledger.acknowledged)

    def _store(self, position: ChangePosition) -> None:
        self._emitted = encoded(position)
        self._ledger.write([], self._emitted)

    def _disconnect(self) -> None:
        for open_one in (self._snapshot, self._stream):
            if open_one is not None:
                open_one.close()
        self._snapshot = self._stream = self._changes = None

    def _connect(self) -> None:
        """Connect and go on at the position; waits while PostgreSQL is away."""
        for attempt in stamina.retry_context(on=self._away, attempts=None, timeout=None, wait_max=WAIT_S_MAX):
            with attempt:
                self._disconnect()
                try:
                    with contextlib.closing(self._source.session(replication=True)) as session:
                        self._begin(session)
                except psycopg.OperationalError:
                    raise
                except psycopg.Error as failure:
                    raise FlowStopped(
                        f"PostgreSQL refused the capture through slot {self._source.slot}: {str(failure).strip()}. "
                        "Its user needs REPLICATION, and SELECT on the table."
                    ) from failure

    def _away(self, failure: Exception) -> bool:
        if not isinstance(failure, psycopg.OperationalError):
            return False
        log.warning("waiting_for_postgres", error=str(failure).strip())
        if self._source.stopping():
            self._source.abandon()
        return True

    def _begin(self, session: Session) -> None:
        """Check server, publication, slot and position against one another, then go on from the position."""
        source = self._source
        server = replication_slot.identify(session)
        columns = replication_slot.published_columns(session, source.publication, *source.captured.table)
        found = replication_slot.find(session, source.slot)
        position = None if self._ledger.acknowledged is None else self._acknowledged()
        highest = None if position is None else highest_of(position.highest, position.after)
        replication_slot.check(
            source.slot, found, server, position, lambda: rows_beyond(session, source.captured, highest)
        )
        if position is None:
            self._refuse_rows_of_unknown_origin(session)
            position = ChangePosition("", 0, "", "creating")
        if found is not None:
            replication_slot.take_over(session, found)
        if position.phase == "creating":
            # Said before it is done: else a slot without a position might be anybody's.
            position = self._taken_as_sent(position.creating(server.system, server.timeline, server.database))
            self._store(position)
        if position.phase == "stream":
            self._stream = self._opened(position)
            self._changes = ChangeStream(self._stream, source.captured, position)
            log.info("streaming", slot=source.slot, lsn=position.lsn, rows_sent_of_next=position.sent)
        elif position.phase == "snapshot":
            self._begin_second_snapshot(session, position, columns)
        else:
            if found is not None:
                replication_slot.drop(session, source.slot)
            self._begin_snapshot(session, position, columns)

    def _rows_in_topic(self) -> TopicIds:
        """Read once: whatever else the topic gets until the snapshot is complete, we send."""
        if self._in_topic is None:
            self._in_topic = self._source.ids_sent()
        return self._in_topic

    def _refuse_rows_of_unknown_origin(self, session: Session) -> None:
        """Without a position the topic may well hold rows of this table: a renamed slot, a lost topic of positions."""
        ids = self._rows_in_topic().ids
        self._in_topic = None
        if ids.lowest is None or ids.highest is None:
            return
        count, first, last = rows_between(session, self._source.captured, ids.lowest, ids.highest)
        if count:
            raise FlowStopped(
                f"Kafka holds no position of the capture through slot {self._source.slot}, but its topic holds "
                f"{len(ids)} ids, {ids.lowest} to {ids.highest}, and the table {count} rows from {first} to {last}: "
                f"was CDC_SLOT or a topic changed? To send only what the topic lacks: {RECAPTURE}"
            )

    def _taken_as_sent(self, position: ChangePosition) -> ChangePosition:
        """What is captured again begins behind the rows that the topic had and has lost to its retention."""
        if not position.again:
            return position
        topic = self._rows_in_topic()
        after = position.highest if topic.emptied else topic.sent_up_to
        if topic.emptied and after is None:
            raise FlowStopped(
                "Retention has emptied the topic, and Kafka holds no position of this capture: nobody knows which rows "
                "were sent. To send every row, delete the topic and create it again with: python -m "
                "operations.provision"
            )
        if after is not None:
            log.warning("taken_as_sent", sent_up_to=after, why="the topic's retention has removed records")
        return msgspec.structs.replace(position, after=after)

    def _opened(self, position: ChangePosition) -> ReplicationStream:
        source = self._source
        return ReplicationStream(source.session(replication=True), source.slot, source.publication, position.lsn_number)

    def _begin_snapshot(self, session: Session, position: ChangePosition, columns: list[str]) -> None:
        source = self._source
        lsn, snapshot = replication_slot.create(session, source.slot)
        self._snapshot = TableSnapshot(source.session(replication=False), snapshot, source.captured, columns)
        self._exclude(self._snapshot, position)
        self._store(msgspec.structs.replace(position, phase="snapshot", lsn=lsn_text(lsn)))
        log.info("snapshot_begins", slot=source.slot, after_id=position.after, lsn=lsn_text(lsn))

    def _begin_second_snapshot(self, session: Session, position: ChangePosition, columns: list[str]) -> None:
        """A newer snapshot than the slot's: without what the slot sends up to it, and behind the last id sent, it
        shows the rows that the lost one had left."""
        source = self._source
        end, snapshot = replication_slot.create(session, f"{source.slot[:50]}_{token_hex(4)}", temporary=True)
        rows = TableSnapshot(source.session(replication=False), snapshot, source.captured, columns)
        self._snapshot = rows
        stream = self._opened(position)
        rows.excluding = ChangeStream(stream, source.captured, position).ids_before(end, source.stopping)
        stream.close()  # nothing of it was confirmed
        log.info(
            "snapshot_goes_on",
            slot=source.slot,
            lsn=position.lsn,
            after_id=position.after,
            left_to_stream=len(rows.excluding),
        )
        self._exclude(rows, position)

    def _exclude(self, rows: TableSnapshot, position: ChangePosition) -> None:
        if position.again:
            rows.excluding.update(self._rows_in_topic().ids)
