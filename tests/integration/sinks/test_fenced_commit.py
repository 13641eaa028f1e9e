"""A position in fenced Kafka transactions, on the real broker."""

import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from sinks.fenced_commit import DeadLetterRecord, FencedCommit
from sources.kafka_topics import ask
from sources.positions import Fenced, FlowStopped, PartitionId

HOUR = 3600


@pytest.fixture
def partition(kafka) -> PartitionId:
    topic = kafka.topic(partitions=2)
    return PartitionId(topic, kafka.topic_id(topic), 1)


@pytest.fixture
def provisioned(kafka, unique, partition) -> PartitionId:
    provision(kafka, unique, partition, 0)
    return partition


def provision(kafka, group: str, partition: PartitionId, offset: int, metadata: str | None = None) -> None:
    """A first position, as operations.provision stores it."""
    metadata = metadata if metadata is not None else f'{{"topic_id":"{partition.topic_id}","at":1000}}'
    consumer = Consumer({**kafka.properties, "group.id": f"{group}.sink", "enable.auto.commit": False})
    consumer.commit(
        offsets=[TopicPartition(partition.topic, partition.partition, offset, metadata)], asynchronous=False
    )
    consumer.close()


def position(kafka, group: str, partition: PartitionId) -> int:
    """As any reader of the group sees it."""
    consumer = Consumer({**kafka.properties, "group.id": f"{group}.sink"})
    try:
        asked = [TopicPartition(partition.topic, partition.partition)]
        # a broker that has just started answers NOT_COORDINATOR at first
        return ask("read the position", lambda: consumer.committed(asked, timeout=10)[0].offset)
    finally:
        consumer.close()


def committed_values(kafka, topic: str) -> list[bytes]:
    consumer = Consumer({**kafka.properties, "group.id": "reader", "enable.partition.eof": True})
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
    values, ends = [], 0
    while ends < len(partitions):
        message = consumer.poll(10)
        assert message is not None
        if message.error() is None:
            values.append(message.value())
        else:
            assert message.error().code() == KafkaError._PARTITION_EOF
            ends += 1
    consumer.close()
    return values


def opened(kafka, group: str, partition: PartitionId, **options) -> FencedCommit:
    commit = FencedCommit(kafka.properties, group, "sink", partition, **options)
    commit.open()
    return commit


def test_what_is_committed_is_read_by_the_next_process(kafka, unique, provisioned) -> None:
    opened(kafka, unique, provisioned, clock=lambda: 1_700_000_000.5).commit(17, extra='{"to":19}')

    successor = FencedCommit(kafka.properties, unique, "sink", provisioned)
    found = successor.open()

    assert (found.offset_next, found.metadata, found.renewed_at) == (17, '{"to":19}', 1_700_000_000.5)


def test_a_newer_process_fences_the_older_which_then_writes_nothing(kafka, unique, provisioned) -> None:
    letters = kafka.topic(partitions=1)
    older = opened(kafka, unique, provisioned)
    older.commit(5)
    newer = opened(kafka, unique, provisioned)

    with pytest.raises(Fenced, match=f"taken over {unique}.sink.{provisioned.topic}.1"):
        older.commit(9, letters=[DeadLetterRecord(b"k", b"late")], topic=letters)
    newer.commit(6, letters=[DeadLetterRecord(b"k", b"mine")], topic=letters)

    assert position(kafka, unique, provisioned) == 6
    assert committed_values(kafka, letters) == [b"mine"]


def test_letters_and_position_are_one_transaction(kafka, unique, provisioned) -> None:
    letters = kafka.topic(partitions=1)
    commit = opened(kafka, unique, provisioned)

    with pytest.raises(FlowStopped, match=r"max\.message\.bytes"):
        commit.commit(
            8, letters=[DeadLetterRecord(b"k", b"fits"), DeadLetterRecord(b"k", b"x" * 3_000_000)], topic=letters
        )

    assert opened(kafka, unique, provisioned)._last.offset_next == 0
    assert committed_values(kafka, letters) == []


def test_a_crash_between_begin_and_commit_leaves_nothing(kafka, unique, provisioned) -> None:
    letters = kafka.topic(partitions=1)
    opened(kafka, unique, provisioned).commit(3)
    crash = f"""
import os
from sinks.fenced_commit import DeadLetterRecord, FencedCommit
from sources.positions import PartitionId
commit = FencedCommit({kafka.properties!r}, {unique!r}, "sink", {provisioned!r})
commit.open()
producer = commit._transactions._producer
commit._transactions._producer = type("Crashing", (), {{
    "__getattr__": lambda self, name: getattr(producer, name),
    "commit_transaction": lambda self, timeout: (producer.flush(10), os._exit(9)),
}})()
commit.commit(7, letters=[DeadLetterRecord(b"k", b"never")], topic={letters!r})
"""
    ended = subprocess.run([sys.executable, "-c", crash], cwd=Path(__file__).parents[3], timeout=60, check=False)
    assert ended.returncode == 9

    assert opened(kafka, unique, provisioned).open().offset_next == 3  # aborts what the dead one left open
    assert committed_values(kafka, letters) == []


def test_a_missing_position_stops_the_flow_with_the_command(kafka, unique, partition) -> None:
    with pytest.raises(FlowStopped, match=r"no position in .*/1 .*python -m operations.provision"):
        opened(kafka, unique, partition)


def test_a_recreated_topic_stops_the_flow(kafka, unique, provisioned) -> None:
    recreated = PartitionId(provisioned.topic, "another", provisioned.partition)

    with pytest.raises(FlowStopped, match=r"was recreated .*python -m operations.provision"):
        opened(kafka, unique, recreated)


def test_a_position_that_somebody_else_wrote_stops_the_flow(kafka, unique, partition) -> None:
    provision(kafka, unique, partition, 4, metadata="")

    with pytest.raises(FlowStopped, match=r"not written by this pipeline.*--position sink=OFFSET"):
        opened(kafka, unique, partition)


def test_an_idle_position_is_renewed_after_an_hour_and_not_before(kafka, unique, provisioned) -> None:
    now = [5000.0]
    commit = opened(kafka, unique, provisioned, clock=lambda: now[0])
    commit.commit(11, extra="kept")

    for now[0] in (5000.0 + HOUR - 1, 5000.0 + HOUR + 1):
        commit.renew(now[0])

    found = FencedCommit(kafka.properties, unique, "sink", provisioned).open()
    assert (found.offset_next, found.metadata, found.renewed_at) == (11, "kept", 5000.0 + HOUR + 1)


def test_an_extra_that_kafka_would_refuse_is_an_error_before_anything_is_written(kafka, unique, provisioned) -> None:
    commit = opened(kafka, unique, provisioned)

    with pytest.raises(ValueError, match="4000"):
        commit.commit(2, extra="x" * 4000)
    commit.commit(2, extra="x" * 3900)

    assert position(kafka, unique, provisioned) == 2


def test_readers_of_the_group_are_not_disturbed_by_a_live_member(kafka, unique, provisioned) -> None:
    member = Consumer({**kafka.properties, "group.id": f"{unique}.sink"})
    member.subscribe([provisioned.topic])
    member.poll(1)

    opened(kafka, unique, provisioned).commit(4)
    member.close()

    assert position(kafka, unique, provisioned) == 4


class Abandoned(Exception):
    pass


def abandon() -> None:
    raise Abandoned


@pytest.fixture
def own_position(kafka_server, unique):
    """A broker that the test may stop, with one provisioned partition."""
    from confluent_kafka.admin import AdminClient, NewTopic

    class Service:  # what the functions above ask of the fixture `kafka`
        def __init__(self) -> None:
            self.properties = {"bootstrap.servers": kafka_server.bootstrap}

    service = Service()
    admin = AdminClient(service.properties)
    admin.create_topics([NewTopic(unique, 1, 1)])[unique].result(20)
    partition = PartitionId(unique, "id", 0)
    provision(service, unique, partition, 0)
    return service, kafka_server, partition


def test_kafka_away_is_waited_for_until_it_is_back(own_position, unique) -> None:
    service, server, partition = own_position
    tries = []

    def back_after_two_tries() -> bool:
        tries.append(1)
        if len(tries) == 2:
            server.start()
        return False

    commit = opened(service, unique, partition, stopping=back_after_two_tries)
    commit.commit(1)
    server.stop()
    commit.commit(2)

    assert len(tries) >= 2
    assert position(service, unique, partition) == 2


def test_while_kafka_is_away_a_request_to_stop_ends_the_process_and_nothing_is_committed(own_position, unique) -> None:
    service, server, partition = own_position
    commit = opened(service, unique, partition, stopping=lambda: True, abandon=abandon)
    server.stop()

    with pytest.raises(Abandoned):
        commit.commit(2)
    server.start()

    assert position(service, unique, partition) == 0
    server.stop()
    with pytest.raises(Abandoned):
        opened(service, unique, partition, stopping=lambda: True, abandon=abandon)


def test_a_producer_of_the_same_topic_is_not_fenced(kafka, unique, provisioned) -> None:
    opened(kafka, unique, provisioned)
    producer = Producer({**kafka.properties, "transactional.id": f"{unique}.sink.{provisioned.topic}.0"})
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.commit_transaction(20)
