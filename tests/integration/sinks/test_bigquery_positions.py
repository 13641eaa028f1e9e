"""The BigQuery sink with its positions on the real broker, and as a step of a Bytewax flow."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from bytewax import operators as op
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSource, run_main
from confluent_kafka import Consumer, KafkaError, TopicPartition

from sinks.bigquery import BigQuerySink
from sinks.fenced_commit import FencedCommit
from sources.positions import Fenced, FlowStopped, PartitionId
from tests.fakes.bigquery_events import NOW, EventBatch, abandon, arrow_rows, batch, day_of
from tests.fakes.bigquery_write import FakeBigQuery


@pytest.fixture
def server() -> Iterator[FakeBigQuery]:
    fake = FakeBigQuery().start()
    yield fake
    fake.stop()


@dataclasses.dataclass
class Place:
    """A topic, its group and the topic of its dead letters."""

    kafka: Any
    group: str
    partition: PartitionId
    dead_letters: str

    def sink(self, server: FakeBigQuery, owner: str, partition: PartitionId | None = None) -> BigQuerySink:
        made = BigQuerySink(
            server.table,
            rows=arrow_rows,
            day_of=day_of,
            position=lambda where: FencedCommit(self.kafka.properties, self.group, "bigquery", where),
            dead_letters=self.dead_letters,
            stopping=lambda: False,
            abandon=abandon,
            ledger=server.objects["ledger"],
            clock=lambda: NOW,
            wait_seconds_max=0.05,
        )
        made.claim(partition or self.partition, owner)
        return made

    def batch(self, offset_from: int, offset_next: int, owner: str) -> EventBatch:
        return batch(offset_from, offset_next, partition=self.partition, owner=owner)

    def stored(self) -> int:
        consumer = Consumer({**self.kafka.properties, "group.id": f"{self.group}.bigquery"})
        try:
            where = TopicPartition(self.partition.topic, self.partition.partition)
            return int(consumer.committed([where], timeout=10)[0].offset)
        finally:
            consumer.close()

    def letters(self) -> list[tuple[bytes | None, dict[str, str]]]:
        consumer = Consumer({**self.kafka.properties, "group.id": "reader", "enable.partition.eof": True})
        consumer.assign([TopicPartition(self.dead_letters, 0, 0)])
        found = []
        while (message := consumer.poll(10)) is not None and message.error() is None:
            headers: Sequence[tuple[str, Any]] = message.headers() or []
            found.append((message.value(), {name: value.decode() for name, value in headers}))
        assert message is not None
        assert message.error().code() == KafkaError._PARTITION_EOF
        consumer.close()
        return found


@pytest.fixture
def place(kafka: Any, unique: str) -> Place:
    topic = kafka.topic(partitions=1)
    partition = PartitionId(topic, kafka.topic_id(topic), 0)
    made = Place(kafka, unique, partition, kafka.topic(partitions=1))
    consumer = Consumer({**kafka.properties, "group.id": f"{unique}.bigquery", "enable.auto.commit": False})
    metadata = f'{{"topic_id":"{partition.topic_id}","at":{NOW * 1000}}}'
    consumer.commit(offsets=[TopicPartition(topic, 0, 0, metadata)], asynchronous=False)
    consumer.close()
    return made


def test_a_refusal_and_its_position_are_in_kafka_and_the_rest_in_bigquery(place: Place, server: FakeBigQuery) -> None:
    server.refuses = lambda row: "no such value" if row["kafka_offset"] == 4 else None
    place.sink(server, "a").write([place.batch(0, 10, "a")])
    assert place.stored() == 5  # behind the refused one; the rest follows within seconds
    [(value, headers)] = place.letters()
    assert value == b"v4"
    assert (headers["sink"], headers["reason"], headers["offset"]) == ("bigquery", "row_refused", "4")
    assert server.offsets() == [0, 1, 2, 3, *range(5, 10)]
    again = place.sink(server, "b")
    again.write([place.batch(5, 10, "b")])
    again.write([place.batch(10, 10, "b")])
    assert place.stored() == 10
    assert len(place.letters()) == 1
    assert server.offsets() == [0, 1, 2, 3, *range(5, 10)]


def test_the_older_process_is_fenced_by_kafka_too(place: Place, server: FakeBigQuery) -> None:
    older = place.sink(server, "a")
    newer = place.sink(server, "b")
    older.write([place.batch(0, 3, "a")])  # nobody has claimed BigQuery yet: these rows land, and are found
    newer.write([place.batch(0, 5, "b")])
    assert server.offsets() == list(range(5))
    with pytest.raises(Fenced):
        older.write([place.batch(3, 3, "a")])


def test_i13_a_recreated_topic_stops_the_flow_with_a_sentence(place: Place, server: FakeBigQuery) -> None:
    recreated = dataclasses.replace(place.partition, topic_id="BBBBBBBBBBBBBBBBBBBBBQ")
    with pytest.raises(FlowStopped, match="was recreated"):
        place.sink(server, "a", recreated)


def test_as_a_step_of_a_flow(place: Place, server: FakeBigQuery) -> None:
    sink = place.sink(server, "a")
    items = [place.batch(start, start + 10, "a") for start in range(0, 100, 10)]
    flow = Dataflow("writes")
    op.output("bigquery", op.input("batches", flow, TestingSource(items)), sink)
    run_main(flow)
    assert server.offsets() == list(range(100))
    assert server.open_streams() == []  # a clean end finalises
