"""The ceiling: confluent-kafka reads a topic and nothing is done with it.

    python -m tests.performance.raw_drain BOOTSTRAP TOPIC PARTITIONS COUNTER_FILE [decode]

A consumer per partition, tuned as the pipeline's, `value()` of every record; with `decode` also what
`engagement.events` makes of it. Ends when PARTITIONS ("0,2") are read to their ends.
"""

import sys
import time
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition

from engagement.events import decode_plain
from sources.kafka import POLL_EVENTS_MAX, REQUIRED, TUNED
from tests.performance.counter_file import CounterFile

EMPTY_REST_S = 0.001


def main(bootstrap: str, topic: str, partitions: str, counter: str, also: str = "") -> None:
    read, decoding = CounterFile(Path(counter)), also == "decode"
    consumers, left = [], 0
    for partition in map(int, partitions.split(",")):
        consumer = Consumer({**TUNED, **REQUIRED, "bootstrap.servers": bootstrap})
        left += consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)[1]
        consumer.assign([TopicPartition(topic, partition, 0)])
        consumers.append(consumer)
    sys.stdout.write("partition_claimed\n")
    sys.stdout.flush()
    while left > 0:
        before = left
        for consumer in consumers:
            values = [message.value() for message in consumer.consume(POLL_EVENTS_MAX, 0)]
            if decoding:
                for value in values:
                    decode_plain(value)  # type: ignore[arg-type]  # the topic holds no tombstones
            left -= len(values)
            read.add(len(values))
        if left == before:
            time.sleep(EMPTY_REST_S)
    sys.stdin.read()  # until what it has used was looked at


if __name__ == "__main__":
    main(*sys.argv[1:])
