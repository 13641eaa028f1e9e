"""The fake position and the real one keep the same contract: what the partner sink relies on."""

from collections.abc import Callable

import pytest
from confluent_kafka import Consumer, TopicPartition

from sinks.fenced_commit import Committed, FencedCommit, dead_letter
from sinks.partner import Position
from sources.positions import Fenced, FlowStopped, PartitionId
from tests.fakes.partner_events import partition_id
from tests.fakes.positions import FakeBroker, FakeFencedCommit

LETTER = dead_letter(
    b"k", b"v", reason="r", detail="d", sink="partner", topic="t", partition=0, offset=1, rejected_at_ms=1
)


class PositionContract:
    """`make(provisioned)` gives a function that makes positions of one partition: each call a further process."""

    def test_without_a_first_position_it_stops_and_names_the_command(self, make) -> None:
        with pytest.raises(FlowStopped, match=r"operations\.provision"):
            make(False)().open()

    def test_the_next_process_reads_what_the_last_one_committed(self, make) -> None:
        opener = make(True)
        first = opener()
        assert (first.open().offset_next, first.open().metadata) == (0, "")
        first.commit(5, '{"to":7,"events":2}')
        read = opener().open()
        assert (read.offset_next, read.metadata) == (5, '{"to":7,"events":2}')

    @pytest.mark.parametrize("letters", [[], [LETTER]], ids=["position", "letter"])
    def test_a_newer_process_fences_the_older(self, make, letters) -> None:
        opener = make(True)
        older = opener()
        older.open()
        older.commit(1)
        newer = opener()
        newer.open()
        with pytest.raises(Fenced):
            older.commit(2, "", letters, make.letters)
        newer.commit(3)
        assert opener().open().offset_next == 3

    def test_letters_need_a_topic(self, make) -> None:
        position = make(True)()
        position.open()
        with pytest.raises(ValueError, match="need a topic"):
            position.commit(1, "", [LETTER])

    def test_letters_and_position_are_committed_together(self, make) -> None:
        opener = make(True)
        position = opener()
        position.open()
        position.commit(2, '{"refused":[1]}', [LETTER], make.letters)
        assert opener().open().offset_next == 2

    def test_a_position_is_renewed_only_after_an_hour(self, make) -> None:
        opener = make(True)
        position = opener()
        committed = position.open()
        position.commit(4, "{}")
        since = opener().open().renewed_at
        renewed = opener()
        renewed.open()
        renewed.renew(since + 3000)
        assert opener().open() == Committed(4, "{}", since)
        assert committed.offset_next == 0


class TestFakePosition(PositionContract):
    @pytest.fixture
    def make(self) -> Callable[[bool], Callable[[], Position]]:
        def of(provisioned: bool) -> Callable[[], Position]:
            broker = FakeBroker()
            if provisioned:
                broker.positions[0] = Committed(0, "", 1.0)
            return lambda: FakeFencedCommit(broker, partition_id(0))

        of.letters = "letters"  # type: ignore[attr-defined]
        return of


class TestRealPosition(PositionContract):
    @pytest.fixture
    def make(self, kafka, unique) -> Callable[[bool], Callable[[], Position]]:
        topic = kafka.topic(partitions=1)
        partition = PartitionId(topic, kafka.topic_id(topic), 0)

        def of(provisioned: bool) -> Callable[[], Position]:
            if provisioned:
                provision(kafka.properties, f"{unique}.partner", partition)
            return lambda: FencedCommit(kafka.properties, unique, "partner", partition)

        of.letters = kafka.topic(partitions=1)  # type: ignore[attr-defined]
        return of


def provision(properties: dict[str, str], group: str, partition: PartitionId) -> None:
    """A first position, as operations.provision stores it."""
    consumer = Consumer({**properties, "group.id": group, "enable.auto.commit": False})
    first = TopicPartition(partition.topic, partition.partition, 0, f'{{"topic_id":"{partition.topic_id}","at":1000}}')
    consumer.commit(offsets=[first], asynchronous=False)
    consumer.close()
