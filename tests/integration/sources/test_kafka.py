"""The Kafka source on a real broker: where it starts, how it cuts, when it waits, how it stops."""

import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition

from sources.kafka import KafkaPartition, KafkaSource
from sources.kafka_records import Records
from sources.positions import Claim, FlowStopped, PartitionId, PositionGap

HOUR_MS = 3_600_000


@dataclass
class Standing:
    """A destination that stands at a given offset."""

    offset_next: int | None
    name: str = "redis"
    newest_ms: int | None = None
    owners: list[str] = field(default_factory=list)

    def claim(self, partition: PartitionId, owner: str) -> Claim:
        self.owners.append(owner)
        return Claim(self.offset_next, newest_ms=self.newest_ms)


class Stopping:
    def __init__(self) -> None:
        self.asked = False
        self.parts: list[str] = []
        self.at_rest: list[str] = []

    def __call__(self) -> bool:
        return self.asked

    def working(self, part: str) -> None:
        self.parts.append(part)

    def rested(self, part: str) -> None:
        self.at_rest.append(part)


@pytest.fixture
def stopping() -> Stopping:
    return Stopping()


@pytest.fixture
def source(kafka: Any, stopping: Stopping) -> Callable[..., KafkaSource[Records]]:
    def make(topic: str, *destinations: Standing, ready: Callable[[Records], bool] = lambda records: True) -> Any:
        return KafkaSource(
            kafka.properties,
            topic,
            kafka.topic_id(topic),
            [0],
            prepare=lambda records: records,
            ready=ready,
            destinations=destinations,
            snapshot_destination="redis",
            stopping=stopping,
            ending=lambda doing: nullcontext(),
        )

    return make


def produce(kafka: Any, topic: str, values: Iterable[bytes | None], **options: Any) -> None:
    producer = Producer({**kafka.properties, **options})
    for value in values:
        producer.produce(topic, value, partition=0, key=b"k", headers={"h": b"1"})
    assert producer.flush(10) == 0


def numbered(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


def read(part: KafkaPartition[Records], until: int, wait_for: Callable[..., Any]) -> list[Records]:
    """Batches until their span reaches `until`; empty batches included."""
    batches: list[Records] = []

    def reached() -> bool:
        batches.extend(part.next_batch())
        return bool(batches) and batches[-1].span.offset_next >= until

    wait_for(reached, message=f"offset {until}")
    return batches


def test_every_record_comes_once_in_order_with_its_key_headers_and_time(kafka, source, wait_for) -> None:
    topic = kafka.topic(partitions=1)
    produce(kafka, topic, [b"a", None, b"c"])
    part = source(topic, Standing(0)).build_part("events", "0", None)
    batches = read(part, 3, wait_for)
    assert [value for batch in batches for value in batch.values] == [b"a", None, b"c"]
    assert [key for batch in batches for key in batch.keys] == [b"k"] * 3
    assert all(headers == [("h", b"1")] for batch in batches for headers in batch.headers or [])
    assert all(ms > 1_700_000_000_000 for batch in batches for ms in batch.timestamps_ms.tolist())
    assert [batch.span.offset_from for batch in batches[1:]] == [batch.span.offset_next for batch in batches[:-1]]


def test_reads_from_the_smallest_position_and_no_batch_straddles_another(kafka, source, wait_for) -> None:
    topic = kafka.topic(partitions=1)
    produce(kafka, topic, numbered(100))
    destinations = [Standing(40), Standing(70, "partner"), Standing(100, "bigquery")]
    part = source(topic, *destinations).build_part("events", "0", (kafka.topic_id(topic), 25, 0))
    batches = read(part, 100, wait_for)
    assert batches[0].span.offset_from == 25
    assert [value for batch in batches for value in batch.values] == numbered(100)[25:]
    for position in (40, 70):
        assert not [b for b in batches if b.span.offset_from < position < b.span.offset_next]
    assert {batch.span.owner for batch in batches} == set(destinations[0].owners)


def test_a_snapshot_counts_only_beside_the_destination_whose_totals_it_holds(kafka, source) -> None:
    topic = kafka.topic(partitions=1)
    produce(kafka, topic, numbered(10))
    part = source(topic, Standing(8, "partner")).build_part("events", "0", (kafka.topic_id(topic), 2, 0))
    assert part.snapshot()[1] == 8


def test_a_snapshot_more_than_an_hour_behind_does_not_count(kafka, source) -> None:
    topic = kafka.topic(partitions=1)
    produce(kafka, topic, numbered(10))
    snapshot = (kafka.topic_id(topic), 2, 10 * HOUR_MS)
    near = source(topic, Standing(8, newest_ms=11 * HOUR_MS)).build_part("events", "0", snapshot)
    far = source(topic, Standing(8, newest_ms=11 * HOUR_MS + 1)).build_part("events", "0", snapshot)
    assert (near.snapshot()[1], far.snapshot()[1]) == (2, 8)


def test_a_snapshot_that_the_broker_has_forgotten_does_not_count(kafka, source) -> None:
    topic = kafka.topic(partitions=1)
    produce(kafka, topic, numbered(10))
    forget(kafka, topic, 5)
    part = source(topic, Standing(8)).build_part("events", "0", (kafka.topic_id(topic), 2, 0))
    assert part.snapshot()[1] == 8


def test_a_destination_that_needs_a_forgotten_offset_stops_the_flow(kafka, source) -> None:
    topic = kafka.topic(partitions=1)
    produce(kafka, topic, numbered(10))
    forget(kafka, topic, 5)
    with pytest.raises(PositionGap, match=r"redis still needs offset 4 .* begins at 5.*--position redis=earliest"):
        source(topic, Standing(4)).build_part("events", "0", None)


def test_a_destination_beyond_the_end_stops_the_flow(kafka, source) -> None:
    topic = kafka.topic(partitions=1)
    produce(kafka, topic, numbered(3))
    with pytest.raises(PositionGap, match=r"stands at offset 7 .* ends at 3"):
        source(topic, Standing(7)).build_part("events", "0", None)


def test_a_snapshot_of_another_incarnation_of_the_topic_stops_the_flow(kafka, source) -> None:
    topic = kafka.topic(partitions=1)
    with pytest.raises(FlowStopped, match="recreated"):
        source(topic, Standing(0)).build_part("events", "0", ("other-topic-id", 0, 0))


def test_an_empty_destination_starts_where_kafka_stood_two_hours_ago(kafka, source) -> None:
    topic = kafka.topic(partitions=1, **{"message.timestamp.type": "CreateTime"})
    producer = Producer(kafka.properties)
    now_ms = int(time.time() * 1000)
    for age_ms in (3 * HOUR_MS, 2 * HOUR_MS + 60_000, 2 * HOUR_MS - 60_000, 0):
        producer.produce(topic, b"x", partition=0, timestamp=now_ms - age_ms)
        producer.flush(10)
    part = source(topic, Standing(None)).build_part("events", "0", None)
    assert part.snapshot()[1] == 2


def test_a_batch_that_is_not_ready_waits_and_the_snapshot_begins_with_it(kafka, source, wait_for) -> None:
    topic = kafka.topic(partitions=1)
    produce(kafka, topic, numbered(5))
    ready = {"now": False}
    part = source(topic, Standing(0), ready=lambda records: ready["now"]).build_part("events", "0", None)
    wait_for(lambda: not part.next_batch() and part._waiting, message="a batch that waits")
    assert part.next_batch() == []
    assert part.snapshot()[1] == 0
    ready["now"] = True
    assert [value for batch in read(part, 5, wait_for) for value in batch.values] == numbered(5)
    assert part.snapshot()[1] == 5


def test_an_idle_partition_passes_transaction_markers_in_an_empty_batch(kafka, source, wait_for) -> None:
    topic = kafka.topic(partitions=1)
    producer = Producer({**kafka.properties, "transactional.id": topic})
    producer.init_transactions(30)
    for commit in (True, False):
        producer.begin_transaction()
        producer.produce(topic, b"x" if commit else b"aborted", partition=0)
        if commit:
            producer.commit_transaction(30)
        else:
            producer.flush(10)
            producer.abort_transaction(30)
    part = source(topic, Standing(0)).build_part("events", "0", None)
    batches = read(part, 4, wait_for)
    assert [value for batch in batches for value in batch.values] == [b"x"]
    assert (batches[-1].span.offset_next, len(batches[-1].values)) == (4, 0)


def test_a_stop_emits_one_empty_batch_then_rests_after_two_snapshots(kafka, source, stopping, wait_for) -> None:
    topic = kafka.topic(partitions=1)
    produce(kafka, topic, numbered(5))
    part = source(topic, Standing(0)).build_part("events", "0", None)
    read(part, 5, wait_for)
    produce(kafka, topic, numbered(5))
    stopping.asked = True
    (last,) = part.next_batch()
    assert (last.span.offset_from, last.span.offset_next, last.values) == (5, 5, [])
    assert part.next_batch() == []
    assert (part.snapshot()[1], stopping.at_rest) == (5, [])
    assert (part.snapshot()[1], stopping.at_rest) == (5, ["0"])


def test_status_tells_position_and_end(kafka, source, wait_for) -> None:
    topic = kafka.topic(partitions=1)
    produce(kafka, topic, numbered(5))
    flow = source(topic, Standing(0))
    part = flow.build_part("events", "0", None)
    read(part, 5, wait_for)
    (status,) = flow.status()
    assert (status.partition, status.offset_next, status.end) == (0, 5, 5)


def forget(kafka: Any, topic: str, before: int) -> None:
    """Delete the records below an offset, as retention would."""
    (done,) = kafka.admin.delete_records([TopicPartition(topic, 0, before)]).values()
    assert done.result(10).low_watermark == before
