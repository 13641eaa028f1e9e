"""Dead letters as they lie in Kafka, and what a replay makes of one: no decision of an operator is in here."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np
from confluent_kafka import IsolationLevel, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from engagement.parse import HEADER_EVENT_ID, HEADER_FOR, HEADER_KAFKA_TIMESTAMP, Rejected, parse
from operations.terminal import Problem, waiting
from sinks.transactions import Record
from sources.kafka_records import Records
from sources.kafka_topics import ANSWER_SECONDS, Topic, ask, is_away
from sources.position_records import position_consumer
from sources.positions import PartitionId, Span

POLL_SECONDS = 1.0
PARSE = "parse"  # the `sink` of what was refused before it was an event


@dataclass(frozen=True)
class Letter:
    """One record of the dead-letter topic. partition, offset: where the letter lies, which is also its name."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"{self.partition}/{self.offset}"

    @property
    def reason(self) -> str:
        return self.headers.get("reason", "?")

    @property
    def sink(self) -> str:
        return self.headers.get("sink", "?")

    @property
    def origin(self) -> str:
        """Where the refused record lies: topic/partition/offset."""
        return "/".join(self.headers.get(name, "?") for name in ("topic", "partition", "offset"))

    @property
    def rejected_at(self) -> datetime | None:
        try:
            return datetime.fromisoformat(self.headers["rejected_at"])
        except (KeyError, ValueError):
            return None

    @classmethod
    def of(cls, message: Message) -> "Letter":
        pairs: Any = message.headers() or ()
        headers = {name: _text(value) for name, value in pairs}
        return cls(message.partition() or 0, message.offset() or 0, message.key(), message.value(), headers)


def _text(value: str | bytes | None) -> str:
    return value if isinstance(value, str) else (value or b"").decode(errors="replace")


def read_letters(kafka: Mapping[str, str], admin: AdminClient, topic: Topic) -> Iterator[Letter]:
    """All letters there are now, in the order of each partition. Waits while Kafka is away."""
    ends = _ends(admin, topic, OffsetSpec.latest())  # type: ignore[no-untyped-call]
    begins = _ends(admin, topic, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
    open_partitions = {partition for partition in ends if begins[partition] < ends[partition]}
    consumer = position_consumer(kafka)
    try:
        consumer.assign([TopicPartition(topic.name, partition, begins[partition]) for partition in open_partitions])
        while open_partitions:
            message = consumer.poll(POLL_SECONDS)
            if message is None:
                waiting(f"read topic {topic.name} to its end")
                continue
            error = message.error()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                if is_away(KafkaException(error)):
                    continue
                raise KafkaException(error)
            letter = Letter.of(message)
            # the end of a partition is told too: a transaction's marker may be the last thing in it
            reached = letter.offset + (error is None)
            if error is None and letter.offset < ends[letter.partition]:
                yield letter
            if reached >= ends[letter.partition]:
                open_partitions.discard(letter.partition)
    finally:
        consumer.close()


def read_letter(kafka: Mapping[str, str], admin: AdminClient, topic: Topic, partition: int, offset: int) -> Letter:
    """The letter at this place. Raises Problem where there is none."""
    nothing = Problem(f"There is no dead letter {partition}/{offset} in topic {topic.name}: see the list.")
    if partition >= topic.partitions:
        raise nothing
    end = _ends(admin, topic, OffsetSpec.latest())[partition]  # type: ignore[no-untyped-call]
    if offset >= end:
        raise nothing
    consumer = position_consumer(kafka)
    try:
        consumer.assign([TopicPartition(topic.name, partition, offset)])
        while (message := consumer.poll(POLL_SECONDS)) is None:
            waiting(f"read topic {topic.name}")
        if message.error() is not None or message.offset() != offset:
            raise nothing
        return Letter.of(message)
    finally:
        consumer.close()


def _ends(admin: AdminClient, topic: Topic, spec: OffsetSpec) -> dict[int, int]:
    def answers() -> dict[int, int]:
        asked = {TopicPartition(topic.name, partition): spec for partition in range(topic.partitions)}
        found = admin.list_offsets(asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=ANSWER_SECONDS)
        return {place.partition: int(answer.result().offset) for place, answer in found.items()}

    return ask(f"find the ends of topic {topic.name}", answers, waiting)


@dataclass(frozen=True)
class Replay:
    """What would be written for a letter; `refusal`: why parse would reject it again, if it would."""

    letter: Letter
    record: Record
    refusal: Rejected | None


def replay_of(letter: Letter, topic: str, value: bytes | None = None) -> Replay:
    """The record that brings a letter back: its own key and bytes (or `value` in their place), its event id and Kafka
    timestamp in headers, and the name of the only sink that is to take it, unless it never was an event."""
    letter = replace(letter, value=letter.value if value is None else value)
    headers = _headers(letter)
    parsed = parse(_as_records(letter, headers))
    if parsed.event_ids:
        headers[HEADER_EVENT_ID] = parsed.event_ids[0]  # also where it comes from the offset of the original
    encoded = [(name, text.encode()) for name, text in headers.items()]
    return Replay(letter, Record(topic, letter.key, letter.value, encoded), next(iter(parsed.rejected), None))


def _headers(letter: Letter) -> dict[str, str]:
    headers = {}
    target = letter.headers.get(HEADER_FOR) if letter.sink == PARSE else letter.sink
    if target:
        headers[HEADER_FOR] = target
    if event_id := letter.headers.get(HEADER_EVENT_ID):
        headers[HEADER_EVENT_ID] = event_id
    timestamp = letter.headers.get(HEADER_KAFKA_TIMESTAMP, "")
    if timestamp.isdigit() and int(timestamp) > 0:
        headers[HEADER_KAFKA_TIMESTAMP] = timestamp
    return headers


def _as_records(letter: Letter, headers: Mapping[str, str]) -> Records:
    """The letter as parse saw the original: at its old offset, with the headers it would have now."""
    offset = _number(letter.headers.get("offset"))
    partition = PartitionId(letter.headers.get("topic", ""), "", _number(letter.headers.get("partition")))
    return Records(
        span=Span(partition, "", offset, offset + 1),
        offsets=np.array([offset], np.int64),
        keys=[letter.key],
        values=[letter.value],
        timestamps_ms=np.array([_number(headers.get(HEADER_KAFKA_TIMESTAMP))], np.int64),
        headers=[[(name, text.encode()) for name, text in headers.items()]],
    )


def _number(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 0
