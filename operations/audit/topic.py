"""The committed records of the topic, partition by partition, as batches that `parse` takes."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec
from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as Place
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from operations.audit.problem import CouldNotLook
from sinks.capture_topic import StoredPosition
from sources.change_position import decoded
from sources.kafka import TUNED
from sources.kafka_brokers import QUIET
from sources.kafka_records import Records, offset_of, records_of
from sources.kafka_topics import AWAY, Topic, admin_client, ask, describe
from sources.position_records import capture_key, read_last
from sources.positions import PartitionId, Span
from sources.topic_positions import TopicPositions

ANSWER_S: Final = 30.0
SILENT_S_MAX: Final = 90.0  # a transaction that a dead process left open holds readers up for so long
RECORDS_MAX: Final = 5_000


class EventsTopic:
    """Reads one topic; commits nothing, joins no group. Methods raise KafkaException and CouldNotLook."""

    def __init__(self, kafka: Mapping[str, str], name: str) -> None:
        self._kafka = dict(kafka)
        self.admin: AdminClient = admin_client(kafka)
        self.admin.list_topics(timeout=ANSWER_S)  # says at once that no broker answers
        self.topic = _described(self.admin, name)

    @property
    def partitions(self) -> range:
        return range(self.topic.partitions)

    def begins(self) -> dict[int, int]:
        """Partition -> the first offset that the broker still has."""
        return self._offsets(OffsetSpec.earliest())  # type: ignore[no-untyped-call]

    def ends(self) -> dict[int, int]:
        """Partition -> the offset behind its last committed record or marker, of what is written by now.

        The broker marks a transaction as committed after it has told the producer so: what is still open is waited
        for, and what a dead process left open ends by its timeout."""
        written = self._offsets(OffsetSpec.latest(), IsolationLevel.READ_UNCOMMITTED)  # type: ignore[no-untyped-call]
        deadline = time.monotonic() + SILENT_S_MAX
        while True:
            settled = self.committed_ends()
            behind = [partition for partition in self.partitions if settled[partition] < written[partition]]
            if not behind:
                return settled
            if time.monotonic() > deadline:
                raise CouldNotLook(
                    f"Could not look into Kafka: a transaction in partitions {behind} of {self.topic.name} has been "
                    f"open for {SILENT_S_MAX:.0f} s"
                )
            time.sleep(0.05)

    def committed_ends(self) -> dict[int, int]:
        """Partition -> the offset up to which every transaction is committed or aborted."""
        return self._offsets(OffsetSpec.latest())  # type: ignore[no-untyped-call]

    def starts(self, kafka_ms: int) -> dict[int, int]:
        """Partition -> the first offset whose Kafka timestamp is not below `kafka_ms`; its end where there is none."""
        ends = self.ends()
        found = self._offsets(OffsetSpec.for_timestamp(max(0, kafka_ms)))
        return {partition: at if at >= 0 else ends[partition] for partition, at in found.items()}

    def positions(self, group: str) -> dict[int, int]:
        """Partition -> the first offset that this group's sink still needs; absent where it has no position."""
        positions = TopicPositions(self._kafka, self.topic.name, ANSWER_S)
        try:
            return ask(f"read the positions of {group}", lambda: positions.committed(group), _patience())
        finally:
            positions.close()

    def capture_phase(self, positions_topic: str, slot: str) -> str:
        """What the capture through this slot is about, as `sources.change_position` names it; "" where nobody knows."""
        if describe(self.admin, positions_topic) is None:
            return ""
        record = read_last(self._kafka, positions_topic, _patience()).get(capture_key(slot))
        if record is None:
            return ""
        stored = msgspec.json.decode(record, type=StoredPosition)
        return decoded(bytes(stored.position)).phase if stored.topic_id == self.topic.topic_id else ""

    def first_ms(self, partition: int, begin: int) -> int:
        """Kafka timestamp of the first record that the broker still has; now where there is none."""
        end, now_ms = self.ends()[partition], int(time.time() * 1000)
        return next((int(records.timestamps_ms[0]) for records in self.records(partition, begin, end)), now_ms)

    def records(self, partition: int, start: int, end: int) -> Iterator[Records]:
        """All records of [start, end) in offset order."""
        if start >= end:
            return
        consumer = self._consumer()
        where = PartitionId(self.topic.name, self.topic.topic_id, partition)
        try:
            consumer.assign([Place(self.topic.name, partition, start)])
            offset, heard_at = start, time.monotonic()
            while offset < end:
                messages = consumer.consume(RECORDS_MAX, 0.05)
                if not messages and time.monotonic() - heard_at > SILENT_S_MAX:
                    raise CouldNotLook(
                        f"Could not look into Kafka: partition {partition} of {self.topic.name} gave nothing behind "
                        f"offset {offset} of {end} for {SILENT_S_MAX:.0f} s"
                    )
                if messages:
                    heard_at = time.monotonic()
                good = [message for message in messages if _is_record(message)]
                # what is at the end of a partition may be a marker: that it is reached is told as an error
                came_from = offset
                offset = max([offset, *map(_next, messages[-1:]), *map(_next, good[-1:])])
                wanted = good if offset <= end else [message for message in good if offset_of(message) < end]
                if wanted:
                    yield records_of(Span(where, "", came_from, offset), wanted)
        finally:
            consumer.close()

    def _offsets(self, spec: OffsetSpec, isolation: IsolationLevel = IsolationLevel.READ_COMMITTED) -> dict[int, int]:
        asked = {Place(self.topic.name, partition): spec for partition in self.partitions}
        found = self.admin.list_offsets(asked, isolation_level=isolation, request_timeout=ANSWER_S)
        return {place.partition: int(answer.result(ANSWER_S).offset) for place, answer in found.items()}

    def _consumer(self) -> Consumer:
        properties: dict[str, Any] = {
            **QUIET,
            **TUNED,
            **self._kafka,
            "group.id": "unused",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
        }
        return Consumer(properties)


def _patience() -> Callable[[str], None]:
    """Called while Kafka does not answer: raises CouldNotLook in the end."""
    deadline = time.monotonic() + ANSWER_S

    def waiting(what: str) -> None:
        if time.monotonic() > deadline:
            raise CouldNotLook(f"Could not look into Kafka: no answer for {ANSWER_S:.0f} s, asked to {what}")

    return waiting


def _described(admin: AdminClient, name: str) -> Topic:
    found = describe(admin, name)
    if found is None:
        raise CouldNotLook(f"Could not look into Kafka: it has no topic {name} (KAFKA_TOPIC_ENGAGEMENT_EVENTS)")
    return found


def _is_record(message: Message) -> bool:
    error = message.error()
    if error is None:
        return True
    if error.code() != KafkaError._PARTITION_EOF and error.code() not in AWAY:
        raise KafkaException(error)
    return False


def _next(message: Message) -> int:
    """The offset behind a message; of the news that the end is reached, that end; of other news nothing."""
    error = message.error()
    if error is None:
        return offset_of(message) + 1
    return offset_of(message) if error.code() == KafkaError._PARTITION_EOF else 0
