"""A topic that is deleted and made anew under the name that is being read: Kafka tells no consumer, so we ask."""

import threading
import time
from collections.abc import Mapping

from confluent_kafka import KafkaException

from dataflows.lifecycle import end
from sources.kafka_topics import Topic, admin_client, describe
from sources.positions import FlowStopped

EVERY_S = 5.0


def watch_topic(kafka: Mapping[str, str], topic: Topic) -> None:
    """End this process with a sentence as soon as the topic is another one, or has other partitions."""
    threading.Thread(target=_watch, args=(kafka, topic), name="topic-watch", daemon=True).start()


def _watch(kafka: Mapping[str, str], topic: Topic) -> None:
    admin = admin_client(kafka)
    while True:
        time.sleep(EVERY_S)
        try:
            found = describe(admin, topic.name)
        except KafkaException:
            continue  # Kafka is away: the consumers say so
        if found != topic:
            now = "gone" if found is None else f"another one (topic id {found.topic_id}, {found.partitions} partitions)"
            end(
                FlowStopped(
                    f"Topic {topic.name} (topic id {topic.topic_id}, {topic.partitions} partitions) is {now}: nothing "
                    "more is read. Let every sink stop, then run: python -m operations.provision"
                )
            )
