"""Which rows of a table a Kafka topic holds: the ids in its committed records, and what its retention has removed."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec
import numpy as np
import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from sources.id_set import IdSet
from sources.kafka_topics import admin_client, ask, describe, is_away, say
from sources.position_records import first_left, position_consumer, written_end
from sources.positions import FlowStopped

log = structlog.get_logger()

POLL_SECONDS = 0.5
RECORDS_AT_ONCE = 10_000
STRETCHES = 100  # of the records read at once, for which times and ids are compared
SAID_EVERY_RECORDS = 1_000_000


@dataclass
class TopicIds:
    """The ids that a topic holds.

    sent_up_to  rows up to this id, which the topic does not hold, count as sent: its retention has removed records.
                None: nothing was removed
    emptied     records were there, and retention has removed every one of them
    """

    ids: IdSet = field(default_factory=IdSet)
    sent_up_to: int | None = None
    emptied: bool = False


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Some records of one partition in a row: Kafka timestamps (ms since 1970) of the first and the last, and the
    highest id among them."""

    first_ms: int
    last_ms: int
    highest: int | None


def read_ids(kafka: Mapping[str, str], topic: str, column: str, waiting: Callable[[str], None] = say) -> TopicIds:
    """Read the whole topic, as of now; a million records take a few seconds and little memory.

    column   the field of the records that is the id; also inside Debezium's envelope. A record without an integer there
             is none of the table's, and is passed over
    waiting  called again and again while Kafka is away; what it raises ends the waiting
    An id that retention has removed was appended before the first record that is left of its partition; a row that was
    never sent is younger than the last record. So half the time between the two parts them, however ids and commits
    have overtaken one another: `sent_up_to` is the highest id of the older half.
    Raises FlowStopped where Kafka refuses.
    """
    found = TopicIds()
    admin = admin_client(kafka)
    about = ask(f"look up topic {topic}", lambda: describe(admin, topic), waiting)
    consumer = position_consumer(kafka)
    decode = _decoder(column)
    stretches: dict[int, list[_Stretch]] = {}
    cut: set[int] = set()
    read = 0
    try:
        for partition in range(about.partitions if about else 0):
            at = (topic, partition)
            # A transaction that somebody else left open ends below the end, and is waited for: what is committed
            # behind it counts too.
            low = ask(f"find the beginning of {topic}-{partition}", partial(first_left, admin, *at), waiting)
            end = ask(f"find the end of {topic}-{partition}", partial(written_end, admin, *at), waiting)
            if low > 0:
                cut.add(partition)
            if low < end:
                stretches[partition] = []
            for messages in _messages(consumer, *at, low, end, waiting):
                stretches[partition] += _take(messages, decode, found.ids)
                if (read + len(messages)) // SAID_EVERY_RECORDS > read // SAID_EVERY_RECORDS:
                    log.info("reading_ids", topic=topic, partition=partition, records=read + len(messages))
                read += len(messages)
    finally:
        consumer.close()
    found.emptied = bool(cut) and not read
    found.sent_up_to = _sent_up_to(stretches, cut, found.ids)
    log.info("ids_read", topic=topic, records=read, ids=len(found.ids), sent_up_to=found.sent_up_to)
    return found


def _messages(
    consumer: Consumer, topic: str, partition: int, low: int, end: int, waiting: Callable[[str], None]
) -> Iterator[list[Message]]:
    """The committed records of one partition from `low` to `end`, some at a time."""
    consumer.assign([TopicPartition(topic, partition, low)])
    reached = low
    while reached < end:
        records = []
        for message in consumer.consume(RECORDS_AT_ONCE, POLL_SECONDS):
            error = message.error()
            if error is None:
                records.append(message)
            elif error.code() != KafkaError._PARTITION_EOF and not (
                error.retriable() or is_away(KafkaException(error))
            ):
                raise FlowStopped(
                    f"Reading which rows topic {topic} holds: {error.str()}. The capture needs READ and DESCRIBE on it."
                )
        if records:
            yield records
        # Behind markers and aborted records too, which no message stands for.
        position = consumer.position([TopicPartition(topic, partition)])[0].offset
        if position <= reached:
            waiting(f"read {topic}-{partition} to its end (offset {reached} of {end})")
        reached = max(reached, position)


def _take(messages: list[Message], decode: Callable[[bytes], int | None], ids: IdSet) -> Iterator[_Stretch]:
    found = [decode(message.value() or b"") for message in messages]
    taken = np.array([each for each in found if each is not None], np.int64)
    ids.add(taken)
    step = -(-len(messages) // STRETCHES)
    for first in range(0, len(messages), step):
        last = min(first + step, len(messages)) - 1
        highest = max((each for each in found[first : last + 1] if each is not None), default=None)
        yield _Stretch(messages[first].timestamp()[1], messages[last].timestamp()[1], highest)


def _sent_up_to(stretches: Mapping[int, list[_Stretch]], cut: set[int], ids: IdSet) -> int | None:
    left = {partition: found for partition, found in stretches.items() if found}
    if not cut or not left or ids.lowest is None:
        return None
    firsts = [found[0].first_ms for partition, found in left.items() if partition in cut]
    left_from = max(firsts) if firsts else min(found[0].first_ms for found in left.values())
    half = (left_from + max(found[-1].last_ms for found in left.values())) // 2
    older = [each.highest for found in left.values() for each in found if each.last_ms <= half]
    return max((highest for highest in older if highest is not None), default=ids.lowest - 1)


def _decoder(column: str) -> Callable[[bytes], int | None]:
    """The id of a record, whether it is the row itself or a Debezium envelope; None where it has none."""
    row = msgspec.defstruct("Row", [(column, int | str | None, None)])
    envelope = msgspec.defstruct("Envelope", [("after", row | None, None)])
    record = msgspec.defstruct(
        "Record", [(column, int | str | None, None), ("after", row | None, None), ("payload", envelope | None, None)]
    )
    decode = msgspec.json.Decoder(record).decode

    def of(value: bytes) -> int | None:
        try:
            read: Any = decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        inner = read.after or (read.payload and read.payload.after) or read
        found = getattr(inner, column)
        return found if isinstance(found, int) and abs(found) < 1 << 63 else None

    return of
