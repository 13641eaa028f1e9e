"""Captured rows and the position behind them, in one Kafka transaction.

The position is a record on a compacted topic: unlike the offsets of a consumer group it never expires and has no
limit of size that matters.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import msgspec
import stamina
import structlog
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from sinks.transactions import PROVISION, TRY_SECONDS, WAIT_SECONDS_MAX, Record, Transactions
from sources.positions import FlowStopped

log = structlog.get_logger()

ANEW = 'python -m bytewax.run "dataflows.cdc_capture:flow(snapshot_after=0)"'


class Group(Protocol):
    """What a source hands over at once: records in order, and the position that holds when they are in Kafka."""

    @property
    def records(self) -> Sequence[tuple[bytes | None, bytes]]: ...
    @property
    def position(self) -> bytes: ...


G = TypeVar("G", bound=Group)


class StoredPosition(msgspec.Struct, frozen=True):
    """The value of the position record. `position` is JSON of the source's own making."""

    topic: str
    topic_id: str
    position: msgspec.Raw


class CaptureTopic(DynamicSink[G], Generic[G]):
    """Exactly once: a group and its position are in Kafka, whole, when `write_batch` returns, and only if no newer
    process has opened the same transactional id; otherwise Fenced.

    acknowledged  the last position that is in Kafka, None while there is none; the source confirms by it
    """

    def __init__(
        self,
        kafka: Mapping[str, str],
        transactional_id: str,
        *,
        topic: str,
        positions_topic: str,
        position_key: str,
        stopping: Callable[[], bool],
        abandon: Callable[[], object],
        ending: Callable[[str], Any],
        forget: bool = False,
        written: Callable[[int], object] = lambda records: None,
    ) -> None:
        """kafka    librdkafka properties; written: told the number of records after each transaction
        positions_topic, position_key  where the position record lies: partition 0, compacted
        forget  a stored position does not count: the source begins anew"""
        self.acknowledged: bytes | None = None
        self.ending = ending
        self._kafka: dict[str, str | int | float | bool] = dict(kafka)
        self._topic, self._topic_id = topic, ""
        self._positions_topic, self._position_key = positions_topic, position_key
        self._transactions = Transactions(kafka, transactional_id, stopping=stopping, abandon=abandon)
        self._stopping, self._abandon = stopping, abandon
        self._forget, self._written = forget, written

    def build(self, step_id: str, worker_index: int, worker_count: int) -> "CaptureTopicPartition[G]":
        """Opens nothing: only the worker that has the source part may fence, and it calls `open`."""
        return CaptureTopicPartition(self)

    def open(self) -> bytes | None:
        """Fence the predecessor, then read the position it left; None where there is none.

        Blocks, and says so, while Kafka is away. Raises FlowStopped where a topic is missing or was recreated."""
        self._topic_id = self._waiting(self._described)
        self._transactions.open()  # before the position is read: nobody older can move it any more
        if self._forget:
            return None
        stored = self._waiting(self._last_position)
        if stored is None:
            return None
        if (stored.topic, stored.topic_id) != (self._topic, self._topic_id):
            raise FlowStopped(
                f"The capture's position belongs to topic {stored.topic} ({stored.topic_id}), but rows would now go to "
                f"{self._topic} ({self._topic_id}), which was recreated or renamed and lacks the rows sent so far: "
                f"capture the table anew with {ANEW}."
            )
        self.acknowledged = bytes(stored.position)
        return self.acknowledged

    def write(self, records: Sequence[tuple[bytes | None, bytes]], position: bytes) -> None:
        """Records and position in one transaction. Retries while Kafka is away; raises Fenced, FlowStopped."""
        stored = StoredPosition(self._topic, self._topic_id, msgspec.Raw(position))
        topic = self._topic
        self._transactions.run(
            [
                *(Record(topic, key, value) for key, value in records),
                Record(self._positions_topic, self._position_key.encode(), msgspec.json.encode(stored)),
            ]
        )
        self.acknowledged = position
        self._written(len(records))

    def _described(self) -> str:
        """The topic's id. Raises FlowStopped where one of the two topics is missing."""
        admin = AdminClient(self._kafka)
        described = admin.describe_topics(
            TopicCollection([self._topic, self._positions_topic]), request_timeout=TRY_SECONDS
        )
        topic_id = ""
        for topic, future in described.items():
            try:
                found = future.result(TRY_SECONDS)
            except KafkaException as failure:
                if failure.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise
                raise FlowStopped(f"Topic {topic} does not exist: {PROVISION}.") from None
            if topic == self._topic:
                topic_id = str(found.topic_id)
        return topic_id

    def _last_position(self) -> StoredPosition | None:
        """The newest committed record under our key.

        Read up to the end that uncommitted records count for: another capture's open transaction hides what lies
        behind it, ours included, and an older position would repeat rows."""
        where = TopicPartition(self._positions_topic, 0, 0)
        admin = AdminClient(self._kafka)  # kept until its answer is there: without it no answer comes
        latest = admin.list_offsets(
            {where: OffsetSpec.latest()},  # type: ignore[no-untyped-call]
            isolation_level=IsolationLevel.READ_UNCOMMITTED,
            request_timeout=TRY_SECONDS,
        )
        end = next(iter(latest.values())).result(TRY_SECONDS).offset
        consumer = Consumer(
            {
                **self._kafka,
                "group.id": "unused",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 20,
            }
        )
        try:
            consumer.assign([where])
            return self._read(consumer, end)
        finally:
            consumer.close()

    def _read(self, consumer: Consumer, end: int) -> StoredPosition | None:
        last: bytes | None = None
        reached = 0
        while reached < end:
            if self._stopping():
                self._abandon()
            message = consumer.poll(0.2)
            if message is None:
                continue
            error = message.error()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                raise KafkaException(error)
            if error is not None:
                if (message.offset() or 0) < end and reached == 0:
                    log.warning("waiting_for_open_transaction", topic=self._positions_topic, of="another capture")
                reached = message.offset() or 0
            elif message.key() == self._position_key.encode():
                last = message.value()
        return msgspec.json.decode(last, type=StoredPosition) if last is not None else None

    def _waiting(self, call: Callable[[], Any]) -> Any:
        """Call until Kafka answers; each failure is said."""

        def away(failure: Exception) -> bool:
            if not isinstance(failure, KafkaException | TimeoutError):
                return False
            log.warning("waiting_for_kafka", to="start the capture", error=str(failure) or "no answer in time")
            if self._stopping():
                self._abandon()
            return True

        for attempt in stamina.retry_context(on=away, attempts=None, timeout=None, wait_max=WAIT_SECONDS_MAX):
            with attempt:
                return call()
        raise AssertionError("unreachable")


class CaptureTopicPartition(StatelessSinkPartition[G], Generic[G]):
    """Synchronous: nothing is buffered behind `write_batch`."""

    def __init__(self, sink: CaptureTopic[G]) -> None:
        self._sink = sink

    def write_batch(self, items: list[G]) -> None:
        with self._sink.ending("writing captured rows to Kafka"):
            for group in items:
                self._sink.write(group.records, group.position)
