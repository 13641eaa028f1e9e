"""Where one sink stands in one Kafka partition: a consumer group's offset, written in fenced transactions.

The offset is the first one the sink still needs. Its metadata names the topic id, so that a recreated topic is
noticed, the time, so that an idle position is renewed before brokers forget it, and what the sink adds (`extra`).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec
import structlog
from confluent_kafka import OFFSET_INVALID, Consumer, KafkaError, KafkaException, TopicPartition

from sinks.repetition import give_up, never, repeated
from sinks.transactions import TRY_SECONDS, Record, Transactions
from sources.positions import FlowStopped, PartitionId

log = structlog.get_logger()

METADATA_BYTES_MAX = 4000  # the broker's own limit, offset.metadata.max.bytes, is 4096
RENEW_SECONDS = 3600.0
REFUSED = (
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.SASL_AUTHENTICATION_FAILED,
)


class PositionMetadata(msgspec.Struct, frozen=True):
    """What is stored beside the offset, as compact JSON. `at` is in milliseconds since 1970."""

    topic_id: str
    at: int
    extra: str = ""


@dataclass(frozen=True, slots=True)
class Committed:
    """offset_next  first offset the sink still needs; metadata: what the sink stored with it (`extra`);
    renewed_at      when it was written, seconds since 1970"""

    offset_next: int
    metadata: str
    renewed_at: float


@dataclass(frozen=True, slots=True)
class DeadLetterRecord:
    """A refused record: its own key and bytes, and in the headers who refused it and why."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]] = field(default_factory=list)


def dead_letter(
    key: bytes | None,
    value: bytes | None,
    *,
    reason: str,
    detail: str,
    sink: str,
    topic: str,
    partition: int,
    offset: int,
    rejected_at_ms: int,
    kafka_timestamp_ms: int | None = None,
    event_id: str | None = None,
    target: str | None = None,
) -> DeadLetterRecord:
    """reason  a code, `detail` a sentence that says what to fix; topic, partition, offset: where the record lies

    kafka_timestamp_ms, event_id  the event's own, so that a replay can restore them
    target  of a letter that was replayed for one sink alone and refused again: that sink"""
    rejected_at = datetime.fromtimestamp(rejected_at_ms / 1000, UTC).isoformat(timespec="milliseconds")
    headers = {
        "reason": reason,
        "detail": detail,
        "sink": sink,
        "topic": topic,
        "partition": str(partition),
        "offset": str(offset),
        "rejected_at": rejected_at.replace("+00:00", "Z"),
    }
    if kafka_timestamp_ms is not None:
        headers["kafka_timestamp"] = str(kafka_timestamp_ms)
    if event_id is not None:
        headers["event_id"] = event_id
    if target is not None:
        headers["for"] = target
    # `errors`: a detail may quote broken text
    return DeadLetterRecord(key, value, [(name, text.encode(errors="replace")) for name, text in headers.items()])


class Position(Protocol):
    """FencedCommit, as the sinks see it."""

    def open(self) -> Committed: ...
    def commit(
        self, offset_next: int, extra: str = "", letters: Sequence[DeadLetterRecord] = (), topic: str | None = None
    ) -> None: ...
    def renew(self, now: float) -> None: ...
    def close(self) -> None: ...


class FencedCommit:
    """The position of one sink in one Kafka partition, and the only pen that may write it.

    Guarantee: what `commit` was given (letters and position) is in Kafka when it returns, whole, once, and only if no
    newer process has called `open` for the same group, sink and partition; otherwise Fenced, and nothing is written.
    """

    def __init__(
        self,
        kafka: Mapping[str, str],
        group: str,
        sink: str,
        partition: PartitionId,
        *,
        stopping: Callable[[], bool] = never,
        abandon: Callable[[], object] = give_up,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """kafka  librdkafka properties, bootstrap.servers among them; clock: seconds since 1970"""
        self._partition = partition
        self._sink, self._group = sink, f"{group}.{sink}"
        self._kafka = dict(kafka)
        self._transactions = Transactions(
            kafka,
            f"{group}.{sink}.{partition.topic}.{partition.partition}",
            stopping=stopping,
            abandon=abandon,
        )
        self._stopping, self._abandon, self._clock = stopping, abandon, clock
        self._group_metadata: Any = None
        self._last = Committed(-1, "", 0.0)

    def open(self) -> Committed:
        """Fence the predecessor, then read the position. Blocks, and says so, while Kafka is away.

        Raises FlowStopped where no position is stored, or it belongs to another incarnation of the topic."""
        # First the fence: it aborts an open transaction, which would make committed() wait, and no older process can
        # move the position after it was read.
        self._transactions.open()
        stored, self._group_metadata = self._read()
        self._last = self._checked(stored)
        return self._last

    def commit(
        self, offset_next: int, extra: str = "", letters: Sequence[DeadLetterRecord] = (), topic: str | None = None
    ) -> None:
        """Store the position, and `letters` on the dead-letter topic `topic`, in one Kafka transaction.

        Retries without end while Kafka is away. Raises Fenced, FlowStopped, and ValueError for an `extra` that does
        not fit into the metadata (4000 bytes in all)."""
        if letters and topic is None:
            raise ValueError("dead letters need a topic")
        now = self._clock()
        metadata = msgspec.json.encode(PositionMetadata(self._partition.topic_id, int(now * 1000), extra)).decode()
        if len(metadata.encode()) > METADATA_BYTES_MAX:
            raise ValueError(f"metadata of {len(metadata.encode())} bytes: Kafka keeps {METADATA_BYTES_MAX}")
        where = TopicPartition(self._partition.topic, self._partition.partition, offset_next, metadata)
        records = [Record(topic or "", letter.key, letter.value, letter.headers) for letter in letters]
        self._transactions.run(records, [where], self._group_metadata)
        self._last = Committed(offset_next, extra, now)

    def renew(self, now: float) -> None:
        """Write the last position again when it is over an hour old: brokers forget the offsets of idle groups."""
        if now - self._last.renewed_at > RENEW_SECONDS:
            self.commit(self._last.offset_next, self._last.metadata)

    def close(self) -> None:
        self._transactions.close()

    def _read(self) -> tuple[TopicPartition, Any]:
        """The stored position, and the group's metadata; waits while Kafka is away."""
        asked = [TopicPartition(self._partition.topic, self._partition.partition)]
        for attempt in repeated(_may_pass, self._stopping, self._abandon):
            with attempt:
                if attempt.num > 1:
                    log.warning("waiting_for_kafka", to="read the position", group=self._group, tries=attempt.num)
                # It never joins the group. A client for each try: one that lost its broker may never find it again.
                consumer = Consumer({**self._kafka, "group.id": self._group, "enable.auto.commit": False})
                try:
                    answer = consumer.committed(asked, timeout=TRY_SECONDS)[0]
                    group_metadata = consumer.consumer_group_metadata()
                finally:
                    consumer.close()
                if answer.error is not None:
                    raise KafkaException(answer.error)
        return answer, group_metadata

    def _checked(self, stored: TopicPartition) -> Committed:
        name = f"{self._partition.topic}/{self._partition.partition}"
        if stored.offset == OFFSET_INVALID:
            raise FlowStopped(
                f"Sink {self._sink} has no position in {name} (group {self._group}): "
                f"set one with: python -m operations.provision"
                f" (where the sink has run before: --position {self._sink}=earliest|end|OFFSET)."
            )
        try:
            metadata = msgspec.json.decode(stored.metadata or "", type=PositionMetadata)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise FlowStopped(
                f"The position of sink {self._sink} in {name} (group {self._group}) was not written by this pipeline: "
                f"set it with: python -m operations.provision --position {self._sink}=OFFSET."
            ) from None
        if metadata.topic_id != self._partition.topic_id:
            raise FlowStopped(
                f"Topic {self._partition.topic} was recreated (topic id {self._partition.topic_id}; sink {self._sink} "
                f"stands in {metadata.topic_id}): start it anew with: python -m operations.provision."
            )
        return Committed(stored.offset, metadata.extra, metadata.at / 1000)


def _may_pass(failure: BaseException) -> bool:
    return isinstance(failure, KafkaException) and failure.args[0].code() not in REFUSED
