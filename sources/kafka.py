"""Kafka as a Bytewax source: micro-batches of one partition each, in offset order, from the position that every
destination agrees on.

The start rule: read from the smallest `offset_next` among the snapshot and the destinations; each passes over what
lies below its own. Batches are cut so that none straddles a destination's position.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from secrets import token_hex
from typing import Any, Generic, Protocol, TypeVar

import structlog
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from sources.kafka_brokers import QUIET, Brokers
from sources.kafka_records import Records, end_of, offset_of, records_of
from sources.kafka_topics import AWAY, ask, is_away, say
from sources.positions import Claim, Destination, FlowStopped, PartitionId, PositionGap, Span

POLL_EVENTS_MAX = 2000  # larger batches fall out of the CPU's cache
POLLS_PER_ACTIVATION_MAX = 5
UNDER_WAY_EVENTS = 24_000  # of all partitions of the process: an event takes 1 KB until its sinks have it
IDLE_POLL = timedelta(milliseconds=5)
IDLE_BATCH_S = 1.0  # an idle partition emits an empty batch, on which destinations commit and renew
EMPTY_DESTINATION_MS = 2 * 3600 * 1000  # what no board can show any more is not read again for it
SNAPSHOT_BEHIND_MS_MAX = 3600 * 1000  # an older snapshot than this is dearer to replay than to load from Redis
METADATA_TIMEOUT_S = 10.0
TUNED = {  # KAFKA_CONFIG_* may say otherwise
    "fetch.queue.backoff.ms": 5,  # the default of 1000 halves the drain
    # The broker answers as soon as there is something; until then each partition asks so often (at 20: 0.1 of a core).
    # Not more: whatever else is asked over that connection waits behind it.
    "fetch.wait.max.ms": 100,
    "queued.max.messages.kbytes": 1024,  # a consumer per partition: 8192 drains no faster, and costs 28 MB more each
}
REQUIRED = {  # whatever else is configured
    "group.id": "unused",  # assigned, never subscribed
    "enable.auto.commit": False,
    "auto.offset.reset": "error",  # never jump
    "isolation.level": "read_committed",
}

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """One Kafka partition as its consumer sees it. end: -1 while unknown; newest_ms: 0 before the first record."""

    topic: str
    partition: int
    offset_next: int
    end: int
    newest_ms: int


class HasSpan(Protocol):
    """What `prepare` makes of the records must still say which stretch it covers."""

    @property
    def span(self) -> Span: ...


T = TypeVar("T", bound=HasSpan)
X = TypeVar("X")
Snapshot = tuple[str, int, int]  # topic id, offset_next, newest Kafka timestamp in milliseconds (0: none yet)


class Stopping(Protocol):
    """The flow's request to stop, and the parts' answer when they have come to rest."""

    def __call__(self) -> bool: ...
    def working(self, part: str) -> None: ...
    def rested(self, part: str) -> None: ...


class KafkaSource(FixedPartitionedSource[T, Snapshot], Generic[T]):
    """Exactly-once input: positions come from snapshot and destinations, never from the consumer group.

    prepare       records -> the item to emit; a function of the records alone
    ready         the item -> may it go on now? Never blocks. Until it says yes the partition waits, alone
    destinations  claimed before the first record of a partition is read
    snapshot_destination  the destination whose totals live in the snapshot; without it a snapshot does not count
    waiting       called with what is waited for, again and again while Kafka is away; what it raises ends the waiting
    """

    def __init__(
        self,
        kafka: Mapping[str, str],
        topic: str,
        topic_id: str,
        partitions: Sequence[int],
        *,
        prepare: Callable[[Records], T],
        ready: Callable[[T], bool],
        destinations: Sequence[Destination],
        snapshot_destination: str | None,
        stopping: Stopping,
        ending: Callable[[str], Any],
        waiting: Callable[[str], None] = say,
    ) -> None:
        self.kafka = dict(kafka)
        self.topic = topic
        self.topic_id = topic_id
        self.partitions = tuple(partitions)
        self.prepare = prepare
        self.ready = ready
        self.destinations = tuple(destinations)
        self.snapshot_destination = snapshot_destination
        self.stopping = stopping
        self.ending = ending
        self._wait = waiting
        self._asking = ""  # what a start waits for
        self._parts: list[KafkaPartition[T]] = []

    def status(self) -> list[PartitionStatus]:
        """Where each partition of this process stands. May be called from any thread."""
        return [part.status() for part in self._parts]

    def away(self) -> str:
        """Why no broker answers; "" where one does. May be called from any thread."""
        return self._asking or next(filter(None, (part.brokers.away() for part in self._parts)), "")

    def list_parts(self) -> list[str]:
        """One part per Kafka partition of this process."""
        return [str(partition) for partition in self.partitions]

    def build_part(self, step_id: str, for_part: str, resume_state: Snapshot | None) -> "KafkaPartition[T]":
        """Claim the partition at every destination, then start where the first of them still needs it."""
        with self.ending(f"claiming partition {for_part} of {self.topic}"):
            partition = PartitionId(self.topic, self.topic_id, int(for_part))
            owner = token_hex(16)
            claims = {each.name: each.claim(partition, owner) for each in self.destinations}
            brokers = Brokers(partition=partition.partition)
            consumer = Consumer({**QUIET, **TUNED, **self.kafka, **REQUIRED, "error_cb": brokers})
            start = self._start(consumer, partition, claims, resume_state)
            consumer.assign([TopicPartition(self.topic, partition.partition, start)])
            positions = [claim.offset_next for claim in claims.values()]
            cuts = sorted({position for position in positions if position is not None and position > start})
            log.info(
                "partition_claimed",
                topic=self.topic,
                partition=partition.partition,
                start=start,
                destinations={name: claim.offset_next for name, claim in claims.items()},
                snapshot=resume_state[1] if resume_state else None,
            )
            self.stopping.working(for_part)
            part = KafkaPartition(self, consumer, brokers, partition, owner, start, cuts)
            self._parts.append(part)
            return part
        raise AssertionError("unreachable")

    def _start(
        self, consumer: Consumer, partition: PartitionId, claims: Mapping[str, Claim], snapshot: Snapshot | None
    ) -> int:
        """The first offset to read."""
        where = f"partition {partition.partition} of topic {partition.topic}"
        place = TopicPartition(partition.topic, partition.partition)
        low, high = self._answer(
            f"find the ends of {where}",
            lambda: consumer.get_watermark_offsets(place, timeout=METADATA_TIMEOUT_S, cached=False),
        )
        wanted: dict[str, int] = {}
        for name, claim in claims.items():
            position = claim.offset_next
            wanted[name] = self._two_hours_ago(consumer, partition, high) if position is None else position
        if snapshot is not None and self._counts(snapshot, claims, low, where):
            wanted["the snapshot"] = snapshot[1]
        if not wanted:
            raise FlowStopped(f"SINKS names no destination: nothing would be done with {where}.")
        for name, offset in wanted.items():
            if offset < low:
                raise PositionGap(
                    f"{name} still needs offset {offset} of {where}, but the broker begins at {low}: Kafka's retention "
                    f"was shorter than the outage. Accept the loss with: python -m operations.provision --position "
                    f"{name}=earliest"
                )
            if offset > high:
                raise PositionGap(
                    f"{name} stands at offset {offset} of {where}, but the broker ends at {high}: the topic was "
                    "truncated or restored from a backup. Compare: docs/runbook.md"
                )
        return min(wanted.values())

    def _counts(self, snapshot: Snapshot, claims: Mapping[str, Claim], low: int, where: str) -> bool:
        """Whether the snapshot takes part in the start rule."""
        topic_id, offset_next, newest_ms = snapshot
        if topic_id != self.topic_id:
            raise FlowStopped(
                f"The recovery directory was made for another incarnation of {where} (topic id {topic_id}, now "
                f"{self.topic_id}): the topic was recreated. Use an empty recovery directory after "
                "python -m operations.provision"
            )
        claim = claims.get(self.snapshot_destination or "")
        if claim is None:
            return False
        behind = claim.newest_ms is not None and claim.newest_ms - newest_ms > SNAPSHOT_BEHIND_MS_MAX
        return offset_next >= low and not behind

    def _two_hours_ago(self, consumer: Consumer, partition: PartitionId, high: int) -> int:
        asked_ms = int(time.time() * 1000) - EMPTY_DESTINATION_MS
        asked = TopicPartition(partition.topic, partition.partition, asked_ms)
        found = self._answer(
            f"find where partition {partition.partition} stood two hours ago",
            lambda: consumer.offsets_for_times([asked], timeout=METADATA_TIMEOUT_S)[0],
        )
        if found.error is not None:
            raise FlowStopped(
                f"Kafka cannot say where partition {partition.partition} stood two hours ago: {found.error}"
            )
        return int(found.offset) if found.offset >= 0 else high

    def _answer(self, what: str, call: Callable[[], X]) -> X:
        """Kafka's answer at a start, waited for."""

        def waiting(what: str) -> None:
            self._asking = f"waiting to {what}"
            self._wait(what)

        answer = ask(what, call, waiting, _is_passing)
        self._asking = ""
        return answer


class KafkaPartition(StatefulSourcePartition[T, Snapshot], Generic[T]):
    """One Kafka partition with a consumer of its own, assigned, never subscribed."""

    def __init__(
        self,
        source: KafkaSource[T],
        consumer: Consumer,
        brokers: Brokers,
        partition: PartitionId,
        owner: str,
        start: int,
        cuts: Sequence[int],
    ) -> None:
        self.brokers = brokers
        self._source = source
        self._consumer = consumer
        self._partition = partition
        self._owner = owner
        self._offset_next = start  # of what was read
        self._passed_on = start  # of what was emitted
        self._newest_ms = 0
        share = UNDER_WAY_EVENTS // (len(source.partitions) * POLL_EVENTS_MAX)
        self._polls = max(1, min(POLLS_PER_ACTIVATION_MAX, share))
        self._cuts = deque(cuts)
        self._waiting: deque[T] = deque()  # read, but not yet ready
        self._emitted_at = time.monotonic()
        self._idle = False
        self._last_emitted = False  # the last, empty batch after the request to stop
        self._snapshots_at_rest = 0

    def next_batch(self) -> list[T]:
        """Some polls, an item each; [] while a batch waits for its look-up."""
        with self._source.ending(f"reading partition {self._partition.partition} of {self._partition.topic}"):
            if self._source.stopping():
                return self._last()
            if not self._waiting:
                self._read()
            items = self._pass_on()
            now = time.monotonic()
            if not items and not self._waiting and now - self._emitted_at >= IDLE_BATCH_S:
                self._waiting.append(self._empty(self._position()))  # `ready` is asked without traffic too
                items = self._pass_on()
            if items:
                self._emitted_at = now
                self._passed_on = items[-1].span.offset_next
            self._idle = not items
            return items
        raise AssertionError("unreachable")

    def next_awake(self) -> datetime | None:
        """At once while there is something to read, else a few milliseconds later."""
        return datetime.now(UTC) + IDLE_POLL if self._idle else None

    def snapshot(self) -> Snapshot:
        """`offset_next` of what was passed on: a batch that waits is read again."""
        if self._last_emitted:
            self._snapshots_at_rest += 1
            if self._snapshots_at_rest == 2:  # the first of them is committed by now
                self._source.stopping.rested(str(self._partition.partition))
        return self._partition.topic_id, self._passed_on, self._newest_ms

    def close(self) -> None:
        self._consumer.close()

    def status(self) -> PartitionStatus:
        """Read from another thread: each figure is right, together they may be a batch apart."""
        where = TopicPartition(self._partition.topic, self._partition.partition)
        end = self._consumer.get_watermark_offsets(where, cached=True)[1]
        return PartitionStatus(self._partition.topic, self._partition.partition, self._passed_on, end, self._newest_ms)

    def _read(self) -> None:
        for _ in range(self._polls):
            messages = self._consumer.consume(POLL_EVENTS_MAX, 0)
            if any(map(Message.error, messages)):
                messages = [message for message in messages if self._is_record(message)]
            if not messages:
                return
            self.brokers.answered()
            for records in self._cut(messages):
                self._waiting.append(self._source.prepare(records))

    def _pass_on(self) -> list[T]:
        items: list[T] = []
        while self._waiting and self._source.ready(self._waiting[0]):
            items.append(self._waiting.popleft())
        return items

    def _cut(self, messages: list[Message]) -> list[Records]:
        """The messages as batches, none of which straddles a destination's position."""
        batches: list[Records] = []
        while self._cuts and self._cuts[0] < end_of(messages):
            cut = self._cuts.popleft()
            below = [message for message in messages if offset_of(message) < cut]
            if cut > self._offset_next:
                batches.append(self._records(below, cut))
            messages = messages[len(below) :]
        return [*batches, self._records(messages, end_of(messages))]

    def _records(self, messages: list[Message], offset_next: int) -> Records:
        span = Span(self._partition, self._owner, self._offset_next, offset_next)
        self._offset_next = offset_next
        records = records_of(span, messages)
        if messages:
            self._newest_ms = max(self._newest_ms, int(records.timestamps_ms.max()))
        return records

    def _empty(self, offset_next: int) -> T:
        return self._source.prepare(self._records([], offset_next))

    def _position(self) -> int:
        """Past the transaction markers behind the last record, but not past a cut."""
        while self._cuts and self._cuts[0] <= self._offset_next:
            self._cuts.popleft()
        asked = TopicPartition(self._partition.topic, self._partition.partition)
        read = int(self._consumer.position([asked])[0].offset)
        return min([max(self._offset_next, read), *self._cuts])

    def _last(self) -> list[T]:
        """After the request to stop: one empty batch, on which destinations settle, then nothing."""
        self._idle = True
        if self._last_emitted:
            return []
        self._waiting.clear()
        self._offset_next = self._passed_on
        self._last_emitted = True
        return [self._empty(self._passed_on)]

    def _is_record(self, message: Message) -> bool:
        error = message.error()
        if error is None:
            return True
        where = f"partition {self._partition.partition} of topic {self._partition.topic}"
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            raise PositionGap(
                f"Kafka no longer has offset {message.offset()} of {where} ({error.str()}): retention was shorter than "
                "the delay, or the topic was recreated. See: python -m operations.provision --help, --position"
            )
        if error.fatal() or error.code() not in AWAY:
            raise FlowStopped(f"Reading {where} failed: {error.str()}")
        log.warning("kafka_read_error", partition=self._partition.partition, error=error.str())
        return False


def _is_passing(failure: Exception) -> bool:
    """A consumer knows no partition either whose leader it could not ask for: that the partition exists was seen."""
    unknown = isinstance(failure, KafkaException) and failure.args[0].code() == KafkaError._UNKNOWN_PARTITION
    return unknown or is_away(failure)
