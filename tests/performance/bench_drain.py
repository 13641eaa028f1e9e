"""How fast one process empties Kafka into Redis, as a share of what a consumer that does nothing reaches.

    python -m tests.performance.bench_drain [EVENTS]

Starts a broker, PostgreSQL and Valkey of its own; prints events per second and ratios. Absolute figures depend on the
machine and its other work: compare within one run.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

from confluent_kafka import Consumer, Producer, TopicPartition

from demo.services import KINDS
from tests.pipeline import Pipeline, events

ROUNDS = 3
DISTINCT = 20_000


def main(count: int) -> None:
    root = Path(tempfile.mkdtemp(prefix="engagement-bench-"))
    root.chmod(0o711)
    servers = {}
    for kind in ("kafka", "postgres", "redis"):
        (root / kind).mkdir()
        (root / kind).chmod(0o711)
        servers[kind] = KINDS[kind](root / kind)
        servers[kind].start()
    try:
        bootstrap = servers["kafka"].bootstrap
        broker = SimpleNamespace(bootstrap=bootstrap, properties={"bootstrap.servers": bootstrap})
        pipeline = Pipeline(broker, servers["postgres"].dsn, servers["redis"].url, "bench", root)
        pipeline.provision()
        fill(pipeline, count)
        print(f"{count:,} events, 4 partitions, {len(pipeline.contents)} contents")
        for number in range(ROUNDS):
            raw = count / drain(pipeline)
            start = time.monotonic()
            flow = pipeline.start(f"round-{number}", snapshot_s=5)
            pipeline.claimed(flow)
            start = time.monotonic()
            pipeline.caught_up(600)
            redis = count / (time.monotonic() - start)
            flow.kill()
            pipeline.client().flushall()
            print(f"round {number + 1}: raw drain {raw:,.0f}/s, into Redis {redis:,.0f}/s, ratio {redis / raw:.2f}")
    finally:
        for server in servers.values():
            server.stop()


def fill(pipeline: Pipeline, count: int) -> None:
    """The same events over and over: only their number matters here."""
    values = [
        (event["content_id"].encode(), json.dumps(event).encode()) for event in events(pipeline.contents, DISTINCT)
    ]
    producer = Producer({**pipeline.kafka.properties, "linger.ms": 20, "compression.type": "lz4"})
    for number in range(count):
        key, value = values[number % DISTINCT]
        while True:
            try:
                producer.produce(pipeline.topic, value, key=key)
                break
            except BufferError:
                producer.poll(0.1)
    producer.flush(60)


def drain(pipeline: Pipeline) -> float:
    """Seconds to read every value with a consumer per partition, and do nothing."""
    ends = pipeline.ends()
    consumers = []
    for partition in ends:
        options = {"group.id": "raw", "fetch.queue.backoff.ms": 5, "queued.max.messages.kbytes": 8192}
        consumer = Consumer({**pipeline.kafka.properties, **options})
        consumer.assign([TopicPartition(pipeline.topic, partition, 0)])
        consumers.append(consumer)
    left, start = sum(ends.values()), time.monotonic()
    while left > 0:
        for consumer in consumers:
            left -= len([message.value() for message in consumer.consume(2000, 0)])
    for consumer in consumers:
        consumer.close()
    return time.monotonic() - start


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400_000)
