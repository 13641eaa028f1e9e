"""The compacted topic beside the events: what was provisioned, passed by hand and replayed; the last record of a key
counts, a record without value removes its key."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from sources.kafka_brokers import QUIET
from sources.kafka_topics import ANSWER_SECONDS, ask, say

POLL_SECONDS = 0.5
CAPTURES = "capture/"  # with what the keys of captures' positions begin


class Provisioned(msgspec.Struct, frozen=True):
    """What a sink was provisioned for: this incarnation of the topic, with so many partitions."""

    topic: str
    topic_id: str
    partitions: int


class Mark(msgspec.Struct, frozen=True):
    """Something done by hand (`passed`, `replayed`): when, in milliseconds since 1970, and for which incarnation."""

    topic_id: str
    at: int


def provisioned_key(group: str, sink: str) -> str:
    return f"provisioned/{group}/{sink}"


def capture_key(slot: str) -> str:
    return f"{CAPTURES}{slot}"


def pass_key(group: str, sink: str, partition: int, offset: int) -> str:
    return f"pass/{group}/{sink}/{partition}/{offset}"


def replayed_key(dead_letters_topic_id: str, partition: int, offset: int) -> str:
    return f"replayed/{dead_letters_topic_id}/{partition}/{offset}"


def read_last(
    kafka: Mapping[str, str], topic: str, waiting: Callable[[str], None] = say, *, captures: bool = False
) -> dict[str, bytes]:
    """Key -> the value of its last committed record, as of now.

    Waits (up to a minute) for a transaction that a dead process left open: records behind it count too, and to miss
    them would be to forget a position. But a capture that died in the middle of its rows holds up nobody who does not
    ask for `captures`: what lies behind its transaction is looked at, and waited for only if it is not all captures'.
    Raises KafkaException where Kafka refuses."""
    # A client for each try: one that was made while the broker was starting was seen to fail for minutes after it was
    # up, at every try, while those made later were answered at once.
    end = ask(f"find the end of topic {topic}", lambda: written_end(AdminClient({**QUIET, **kafka}), topic, 0), waiting)
    consumer = position_consumer(kafka)
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        found: dict[str, bytes] = {}
        reached = 0
        while reached < end:
            message = consumer.poll(POLL_SECONDS)
            if message is None:
                if not captures and _only_captures(kafka, topic, reached, end):
                    break
                waiting(f"read topic {topic} to its end (offset {reached} of {end})")
                continue
            reached = max(reached, take(message, found))
        return found
    finally:
        consumer.close()


def _only_captures(kafka: Mapping[str, str], topic: str, reached: int, end: int) -> bool:
    """Whether all that was written from `reached` to `end`, committed or not, is positions of captures.

    False, too, while Kafka does not answer."""
    consumer = position_consumer(kafka, committed=False)
    try:
        consumer.assign([TopicPartition(topic, 0, reached)])
        while reached < end:
            message = consumer.poll(POLL_SECONDS)
            seen: dict[str, bytes] = {}
            if message is None or (message.value() is None and message.error() is None):
                return False
            reached = max(reached, take(message, seen))
            if not all(key.startswith(CAPTURES) for key in seen):
                return False
        return True
    finally:
        consumer.close()


def position_consumer(kafka: Mapping[str, str], *, committed: bool = True) -> Consumer:
    """A reader of (committed) records that belongs to no group and stores nothing."""
    properties: dict[str, Any] = {
        "fetch.wait.max.ms": 20,
        **QUIET,
        **kafka,
        "group.id": "unused",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "auto.offset.reset": "earliest",  # compaction may have removed the first offsets
        "isolation.level": "read_committed" if committed else "read_uncommitted",
    }
    return Consumer(properties)


def take(message: Message, found: dict[str, bytes]) -> int:
    """Put one message of the topic into `found`; the offset behind it."""
    error = message.error()
    if error is not None:
        if error.code() == KafkaError._PARTITION_EOF:
            return message.offset() or 0
        if error.retriable() or error.code() in (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN):
            return 0
        raise KafkaException(error)
    key = (message.key() or b"").decode(errors="replace")
    value = message.value()
    if value is None:
        found.pop(key, None)
    else:
        found[key] = value
    return (message.offset() or 0) + 1


def written_end(admin: AdminClient, topic: str, partition: int) -> int:
    """The end of what is written, open transactions included."""
    return _offset(admin, TopicPartition(topic, partition), OffsetSpec.latest())  # type: ignore[no-untyped-call]


def first_left(admin: AdminClient, topic: str, partition: int) -> int:
    """The first offset that retention has left."""
    return _offset(admin, TopicPartition(topic, partition), OffsetSpec.earliest())  # type: ignore[no-untyped-call]


def _offset(admin: AdminClient, at: TopicPartition, which: OffsetSpec) -> int:
    answers = admin.list_offsets(
        {at: which}, isolation_level=IsolationLevel.READ_UNCOMMITTED, request_timeout=ANSWER_SECONDS
    )
    return int(next(iter(answers.values())).result(ANSWER_SECONDS).offset)
