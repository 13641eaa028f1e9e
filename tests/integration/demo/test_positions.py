"""Where everybody stands, as the demo reads it."""

import psycopg
import redis
from confluent_kafka import Consumer, Producer, TopicPartition

from demo.positions import Positions, captured, last_write
from sinks.redis_layout import Group


def test_what_waits_is_the_distance_to_the_end(kafka, redis_url, unique):
    topic = kafka.topic(partitions=2)
    producer = Producer(kafka.properties)
    for _ in range(5):
        producer.produce(topic, b"x", partition=1)
    producer.flush(10)
    committer = Consumer({**kafka.properties, "group.id": f"{unique}.partner"})
    committer.commit(offsets=[TopicPartition(topic, 1, 3)], asynchronous=False)
    committer.close()
    client = redis.Redis.from_url(redis_url)
    layout = Group(unique, topic, 10)
    client.sadd(layout.partitions, 1)
    client.hset(
        layout.partition(1).position, mapping={"next": 5, "watermark_us": 7, "total_events": 4, "total_rejected": 1}
    )
    positions = Positions(kafka.properties, topic, unique, ("redis", "partner", "bigquery"), client)
    assert positions.ends() == {0: 0, 1: 5}
    assert positions.of("partner") == {1: 3}
    assert positions.waiting() == {"redis": 0, "partner": 2, "bigquery": 5}
    assert positions.totals() == {"events": 4, "rejected": 1, "watermark_us": 7}


def test_the_capture_is_behind_until_it_has_confirmed(postgres, unique):
    assert captured(postgres, unique) is None
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [unique])
        connection.execute("CREATE TABLE written (id int)")
    behind = captured(postgres, unique)
    assert behind is not None
    assert behind < last_write(postgres)
