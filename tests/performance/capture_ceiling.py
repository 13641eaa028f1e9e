"""What a capture in Python could reach at best: it reads the slot and produces, and does nothing between.

    python -m tests.performance.capture_ceiling DSN SLOT BOOTSTRAP FROM_TOPIC TO_TOPIC ROWS

The bytes of the stream are read and not decoded; for each row a record of FROM_TOPIC, read beforehand, is produced to
TO_TOPIC, in Kafka transactions of at most 10,000 rows, or fewer where the stream is dry. Ends after ROWS rows.
"""

import sys

from confluent_kafka import Consumer, Producer, TopicPartition

from sinks.repetition import give_up, never
from sources.kafka import REQUIRED, TUNED
from sources.postgres_session import Session
from sources.replication import ReplicationStream

ROWS_MAX = 10_000
INSERT = ord("I")
PUBLICATION = "engagement"


def main(dsn: str, slot: str, bootstrap: str, from_topic: str, to_topic: str, rows: str) -> None:
    count = int(rows)
    records = _records(bootstrap, from_topic, count)
    producer = Producer(
        {"bootstrap.servers": bootstrap, "transactional.id": slot, "linger.ms": 0, "partitioner": "murmur2_random"}
    )
    producer.init_transactions(30)
    session = Session(dsn, replication=True, stopping=never, abandon=give_up)
    stream = ReplicationStream(session, slot, PUBLICATION, 0)
    sys.stdout.write("partition_claimed\n")
    sys.stdout.flush()
    done = 0
    while done < count:
        taken = 0
        producer.begin_transaction()
        while taken < ROWS_MAX and done + taken < count:
            message = stream.receive()
            if message is None:
                if taken:
                    break
                stream.wait(0.1)
            elif message[0] == INSERT:
                key, value = records[done + taken]
                producer.produce(to_topic, value, key)
                taken += 1
        producer.commit_transaction()
        done += taken
    sys.stdin.read()  # until what it has used was looked at


def _records(bootstrap: str, topic: str, count: int) -> list[tuple[bytes | None, bytes | None]]:
    """The first `count` records of a topic: any will do."""
    consumer = Consumer({**TUNED, **REQUIRED, "bootstrap.servers": bootstrap})
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
    found: list[tuple[bytes | None, bytes | None]] = []
    while len(found) < count:
        found += [(message.key(), message.value()) for message in consumer.consume(10_000, 0.1)]
    consumer.close()
    return found[:count]


if __name__ == "__main__":
    main(*sys.argv[1:])
