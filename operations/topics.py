"""The three topics: events, dead letters, and the compacted one for positions and marks."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from operations.steps import Step
from operations.terminal import Problem, waiting
from sources.kafka_topics import ANSWER_SECONDS, ask, describe
from sources.provisioned import warn_of_create_time

DAY_MS = 24 * 3600 * 1000
BROKERS_DEFAULT = -1  # replication factor, and with it min.insync.replicas, are the cluster's own


@dataclass(frozen=True)
class WantedTopic:
    """A topic as it is made; one that is there already is left as it is."""

    name: str
    partitions: int
    config: Mapping[str, str] = field(default_factory=dict)


def wanted_topics(events: str, partitions: int, dead_letters: str, positions: str) -> list[WantedTopic]:
    """The broker stamps the records (LogAppendTime): the watermark must not depend on producers' clocks."""
    stamped = {"message.timestamp.type": "LogAppendTime"}
    return [
        # longer than any outage of a sink
        WantedTopic(events, partitions, {**stamped, "retention.ms": str(14 * DAY_MS)}),
        # a letter is the record plus its headers; it must outlive the search for whoever wrote it
        WantedTopic(
            dead_letters, partitions, {**stamped, "retention.ms": str(180 * DAY_MS), "max.message.bytes": "8388608"}
        ),
        # small segments: only closed ones are compacted
        WantedTopic(
            positions,
            1,
            {
                **stamped,
                "cleanup.policy": "compact",
                "segment.bytes": "1048576",
                "segment.ms": str(DAY_MS),
                "min.cleanable.dirty.ratio": "0.1",
            },
        ),
    ]


def topic_steps(kafka: Mapping[str, str], admin: AdminClient, topics: list[WantedTopic]) -> Iterator[Step]:
    """A step a topic. Waits while Kafka is away."""
    for topic in topics:
        yield Step(
            f"topic {topic.name}",
            lambda topic=topic: _missing(kafka, admin, topic),  # type: ignore[misc]
            lambda topic=topic: _create(admin, topic),  # type: ignore[misc]
        )


def _missing(kafka: Mapping[str, str], admin: AdminClient, topic: WantedTopic) -> str | None:
    found = ask(f"reach Kafka at {kafka['bootstrap.servers']}", lambda: describe(admin, topic.name), waiting)
    if found is None:
        return "no such topic"
    if topic.config.get("cleanup.policy") != "compact":
        warn_of_create_time(kafka, topic.name)
    elif found.partitions != 1:
        raise Problem(f"Topic {topic.name} has {found.partitions} partitions, and must have one: delete it first.")
    return None


def _create(admin: AdminClient, topic: WantedTopic) -> None:
    new = NewTopic(topic.name, topic.partitions, BROKERS_DEFAULT, config=dict(topic.config))
    try:
        admin.create_topics([new], request_timeout=ANSWER_SECONDS)[topic.name].result()
    except KafkaException as failure:
        raise Problem(f"Kafka does not create topic {topic.name}: {failure.args[0].str()}") from failure
    # Leaders are elected after the answer.
    ask(f"see topic {topic.name}", lambda: describe(admin, topic.name), waiting)
