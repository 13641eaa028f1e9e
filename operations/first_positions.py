"""Where each sink begins in each Kafka partition; written once, and afterwards only on an operator's word."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
from confluent_kafka import Consumer, IsolationLevel, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from operations.steps import Step
from operations.terminal import Problem, waiting
from sinks.fenced_commit import PositionMetadata
from sinks.transactions import Record, Transactions
from sources.kafka_topics import ANSWER_SECONDS, Topic, ask, describe
from sources.position_records import Provisioned, provisioned_key, read_last
from sources.provisioned import mismatch, provisioned
from sources.topic_positions import TopicPositions

EARLIEST, END = "earliest", "end"


@dataclass(frozen=True)
class Order:
    """An operator's word: `sink` begins at `where` (earliest, end, or an offset), in one partition or in all (None)."""

    sink: str
    partition: int | None
    where: str

    @classmethod
    def parse(cls, text: str, sinks: Sequence[str]) -> "Order":
        """'partner=end' or 'partner/2=1500'. Raises ValueError with what is wrong about it."""
        target, _, where = text.partition("=")
        sink, slash, partition = target.partition("/")
        if sink not in sinks:
            raise ValueError(f"{text!r}: no sink {sink!r}; there are {', '.join(sinks)}")
        if where not in (EARLIEST, END) and not where.isdigit():
            raise ValueError(f"{text!r}: after = comes earliest, end or an offset")
        if slash and not partition.isdigit():
            raise ValueError(f"{text!r}: {partition!r} is no partition")
        return cls(sink, int(partition) if slash else None, where)


class FirstPositions:
    """Positions of a group's sinks in one topic.

    keep_in_redis  (partition -> offset) sets the positions that lie in Redis with the totals
    """

    def __init__(
        self,
        kafka: Mapping[str, str],
        admin: AdminClient,
        topic: str,
        positions_topic: str,
        group: str,
        keep_in_redis: Callable[[Topic, Mapping[int, int]], None],
    ) -> None:
        self._kafka, self._admin = dict(kafka), admin
        self._topic, self._positions_topic, self._group = topic, positions_topic, group
        self._keep_in_redis = keep_in_redis

    def step(self, sink: str, accept_partitions: bool) -> Step:
        """The first position of a sink, in every partition, where there never was one for this topic id."""
        return Step(
            f"first position of sink {sink}",
            lambda: self._missing(sink),
            lambda: self._first(sink, accept_partitions),
        )

    def set(self, orders: Sequence[Order]) -> list[str]:
        """Obey: fence the flow that holds the partition, then write. Answers a line for each partition."""
        topic = self._described()
        records = self._records()
        done = []
        for order in orders:
            if mismatch(records, topic, self._group, order.sink):
                raise Problem(f"Sink {order.sink} was not provisioned for this topic yet: run this without --position.")
            wanted = range(topic.partitions) if order.partition is None else [order.partition]
            offsets = self._offsets(topic, wanted, order.where)
            if order.sink == "redis":
                self._keep_in_redis(topic, offsets)
            else:
                for partition in offsets:
                    self._fence(order.sink, partition)
                self._write(order.sink, topic, offsets)
            done += [
                f"{order.sink} begins at offset {at} of partition {p} of {topic.name}" for p, at in offsets.items()
            ]
        return done

    def _missing(self, sink: str) -> str | None:
        topic = ask("look at the topic", lambda: describe(self._admin, self._topic), waiting)
        positions = ask("look at the topic", lambda: describe(self._admin, self._positions_topic), waiting)
        if topic is None or positions is None:
            return f"topic {self._topic if topic is None else self._positions_topic} is missing"
        return mismatch(self._records(), topic, self._group, sink) or self._lost(topic, sink)

    def _lost(self, topic: Topic, sink: str) -> str | None:
        """Positions that were given once and are gone: only an operator may say where to go on."""
        if sink == "redis":  # it keeps its own, and an empty one is filled from Kafka
            return None
        group = f"{self._group}.{sink}"
        positions = TopicPositions(self._kafka, topic.name, ANSWER_SECONDS)
        try:
            found = ask(f"read the positions of group {group}", lambda: positions.committed(group), waiting)
        finally:
            positions.close()
        lost = sorted(set(range(topic.partitions)) - found.keys())
        if not lost:
            return None
        return (
            f"the brokers no longer have the position of sink {sink} in partitions {lost} (group {group}): set it with "
            f"--position {sink}/PARTITION=earliest|end|OFFSET"
        )

    def _first(self, sink: str, accept_partitions: bool) -> None:
        topic = self._described()
        before = provisioned(self._records(), self._group, sink)
        if before is None or before.topic_id != topic.topic_id:
            new = range(topic.partitions)
        elif accept_partitions:
            new = range(before.partitions, topic.partitions)
        else:
            raise Problem(self._missing(sink) or "")
        # Redis holds its own position, and begins at the events of two hours ago.
        self._write(sink, topic, {} if sink == "redis" else self._offsets(topic, new, EARLIEST))

    def _write(self, sink: str, topic: Topic, offsets: Mapping[int, int]) -> None:
        """Positions, and the record that they were given, in one transaction."""
        metadata = msgspec.json.encode(PositionMetadata(topic.topic_id, int(time.time() * 1000))).decode()
        places = [TopicPartition(topic.name, partition, at, metadata) for partition, at in offsets.items()]
        made_for = msgspec.json.encode(Provisioned(topic.name, topic.topic_id, topic.partitions))
        record = Record(self._positions_topic, provisioned_key(self._group, sink).encode(), made_for)
        consumer = Consumer({**self._kafka, "group.id": f"{self._group}.{sink}", "enable.auto.commit": False})
        try:
            transactions = Transactions(self._kafka, f"{self._group}.{sink}.provision")
            transactions.open()
            transactions.run([record], places, consumer.consumer_group_metadata())
        finally:
            consumer.close()

    def _fence(self, sink: str, partition: int) -> None:
        """Whoever holds the position now cannot write it any more."""
        holder = Transactions(self._kafka, f"{self._group}.{sink}.{self._topic}.{partition}")
        holder.open()
        holder.close()

    def _offsets(self, topic: Topic, partitions: Sequence[int], where: str) -> dict[int, int]:
        """Partition -> the offset meant by `where`."""
        strange = [partition for partition in partitions if partition >= topic.partitions]
        if strange:
            raise Problem(f"Topic {topic.name} has no partition {strange[0]}: it has {topic.partitions}.")
        low = self._ends(topic, partitions, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
        high = self._ends(topic, partitions, OffsetSpec.latest())  # type: ignore[no-untyped-call]
        if where == EARLIEST:
            return low
        if where == END:
            return high
        for partition in partitions:
            if not low[partition] <= int(where) <= high[partition]:
                raise Problem(
                    f"Partition {partition} of {topic.name} holds offsets {low[partition]} to {high[partition]}, not "
                    f"{where}. For one partition alone: SINK/PARTITION=OFFSET."
                )
        return dict.fromkeys(partitions, int(where))

    def _ends(self, topic: Topic, partitions: Sequence[int], spec: OffsetSpec) -> dict[int, int]:
        def answers() -> dict[int, int]:
            asked = {TopicPartition(topic.name, partition): spec for partition in partitions}
            found = self._admin.list_offsets(
                asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=ANSWER_SECONDS
            )
            return {place.partition: int(answer.result().offset) for place, answer in found.items()}

        # just after it was created a topic may have no leader yet
        return ask(f"find the ends of topic {topic.name}", answers, waiting) if partitions else {}

    def _described(self) -> Topic:
        topic = ask("look at the topic", lambda: describe(self._admin, self._topic), waiting)
        if topic is None:
            raise Problem(f"Kafka has no topic {self._topic}: run this without --position first.")
        return topic

    def _records(self) -> dict[str, bytes]:
        return read_last(self._kafka, self._positions_topic, waiting)
