"""The sink of the dead letters on the real broker: each rejected record once, whatever happens between."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition

from sinks.dead_letters import DeadLettersSink
from sinks.fenced_commit import FencedCommit
from sources.positions import Claim, Fenced, PartitionId, Span

ROOT = Path(__file__).parents[3]


@dataclass
class Rejection:
    offset: int
    key: bytes | None = b"k"
    value: bytes | None = b"{"
    reason: str = "not_json"
    detail: str = "write JSON"
    timestamp_ms: int = 1
    target: str | None = None
    event_id: str | None = None


@dataclass
class Batch:
    span: Span
    rejected: list[Rejection] = field(default_factory=list)


@dataclass
class Place:
    properties: dict[str, str]
    group: str
    partition: PartitionId
    letters: str

    def sink(self, stopping=lambda: False) -> DeadLettersSink:
        def position(partition: PartitionId) -> FencedCommit:
            return FencedCommit(self.properties, self.group, "dead_letters", partition)

        return DeadLettersSink(self.letters, position, stopping=stopping)

    def batch(self, owner: str, start: int, end: int, *rejected: int) -> Batch:
        return Batch(Span(self.partition, owner, start, end), [Rejection(offset) for offset in rejected])

    def written(self) -> list[int]:
        """Offsets of the records whose letters can be read."""
        consumer = Consumer({**self.properties, "group.id": "reader", "enable.partition.eof": True})
        consumer.assign([TopicPartition(self.letters, 0, 0)])
        found = []
        while True:
            message = consumer.poll(10)
            assert message is not None
            if message.error() is not None:
                assert message.error().code() == KafkaError._PARTITION_EOF
                consumer.close()
                return found
            found.append(int(dict(message.headers())["offset"]))


@pytest.fixture
def place(kafka, unique) -> Place:
    topic = kafka.topic(partitions=1)
    partition = PartitionId(topic, kafka.topic_id(topic), 0)
    consumer = Consumer({**kafka.properties, "group.id": f"{unique}.dead_letters", "enable.auto.commit": False})
    metadata = f'{{"topic_id":"{partition.topic_id}","at":1000}}'
    consumer.commit(offsets=[TopicPartition(topic, 0, 0, metadata)], asynchronous=False)
    consumer.close()
    return Place(kafka.properties, unique, partition, kafka.topic(partitions=1))


def test_a_replayed_stretch_adds_no_letter(place) -> None:
    first = place.sink()
    assert first.claim(place.partition, "a") == Claim(0)
    first.write([place.batch("a", 0, 10, 3, 4), place.batch("a", 10, 20)])

    second = place.sink()
    assert second.claim(place.partition, "b") == Claim(20)
    second.write([place.batch("b", 0, 10, 3, 4), place.batch("b", 10, 20), place.batch("b", 20, 30, 25)])

    assert place.written() == [3, 4, 25]


def test_the_older_of_two_sinks_is_fenced_at_its_next_letter(place) -> None:
    older, newer = place.sink(), place.sink()
    older.claim(place.partition, "a")
    newer.claim(place.partition, "b")

    with pytest.raises(Fenced):
        older.write([place.batch("a", 0, 10, 3)])
    newer.write([place.batch("b", 0, 10, 3)])

    assert place.written() == [3]


def test_a_clean_stop_leaves_the_position_behind_everything_read(place) -> None:
    sink = place.sink(stopping=lambda: True)
    sink.claim(place.partition, "a")
    sink.write([place.batch("a", 0, 500)])

    assert place.sink().claim(place.partition, "b") == Claim(500)


FLOW = """
import sys
sys.path.insert(0, {tests!r})
from test_dead_letters import Place
from sources.positions import PartitionId
place = Place({properties!r}, {group!r}, {partition!r}, {letters!r})
sink = place.sink()
start = sink.claim(place.partition, "me").offset_next
for number in range(start, {end}, 5):
    sink.write([place.batch("me", number, number + 5, number, number + 2)])
    print(number, flush=True)
"""


def test_kill_at_any_moment_then_again_writes_each_letter_once(place) -> None:
    end = 600
    script = FLOW.format(tests=str(Path(__file__).parent), end=end, **vars(place))
    command = [sys.executable, "-c", script]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for kill_after in (1, 7, 30, None):
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as flow:
            assert flow.stdout is not None
            for lines, _ in enumerate(flow.stdout, 1):
                if lines == kill_after:
                    flow.send_signal(signal.SIGKILL)
                    break

    assert place.written() == [offset for number in range(0, end, 5) for offset in (number, number + 2)]
