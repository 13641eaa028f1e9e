"""Whether everything that a flow stands on was made for it: topics, first positions, the number of partitions."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import msgspec
import structlog
from confluent_kafka import KafkaException

from sources.kafka_topics import Topic, admin_client, ask, describe, say, settings_of
from sources.position_records import Provisioned, provisioned_key, read_last
from sources.positions import FlowStopped

PROVISION = "python -m operations.provision"

log = structlog.get_logger()


def check_provisioned(
    kafka: Mapping[str, str],
    topic: str,
    positions_topic: str,
    group: str,
    sinks: Iterable[str],
    *,
    other_topics: Iterable[str] = (),
    waiting: Callable[[str], None] = say,
) -> Topic:
    """The topic as it is, for a flow that is about to read it.

    other_topics  must be there too: dead letters
    waiting       called with what is waited for, again and again while Kafka is away; what it raises ends the waiting
    Raises FlowStopped, one sentence that names the command to run, where something is missing or was made for another
    incarnation of the topic or another number of partitions.
    """
    admin = admin_client(kafka)
    where = f"at {kafka['bootstrap.servers']}"
    found = ask(f"look up topic {topic} {where}", lambda: describe(admin, topic), waiting)
    if found is None:
        raise FlowStopped(f"Kafka has no topic {topic}: create it with: {PROVISION}")
    for other in (positions_topic, *other_topics):
        if ask(f"look up topic {other} {where}", partial(describe, admin, other), waiting) is None:
            raise FlowStopped(f"Kafka has no topic {other}: create it with: {PROVISION}")
    warn_of_create_time(kafka, topic)
    records = read_last(kafka, positions_topic, waiting)
    for sink in sinks:
        problem = mismatch(records, found, group, sink)
        if problem:
            raise FlowStopped(problem)
    return found


def provisioned(records: Mapping[str, bytes], group: str, sink: str) -> Provisioned | None:
    """What was written down when this sink was provisioned. records: the compacted topic's, last of each key."""
    value = records.get(provisioned_key(group, sink))
    return None if value is None else msgspec.json.decode(value, type=Provisioned)


def mismatch(records: Mapping[str, bytes], topic: Topic, group: str, sink: str) -> str | None:
    """What keeps this sink from starting on `topic`, as a sentence; None where all is well."""
    made_for = provisioned(records, group, sink)
    if made_for is None:
        return f"Sink {sink} of group {group} was never provisioned for topic {topic.name}: run {PROVISION}"
    if made_for.topic_id != topic.topic_id:
        return (
            f"Topic {topic.name} was recreated (topic id {topic.topic_id}; sink {sink} of group {group} was "
            f"provisioned for {made_for.topic_id}): start it anew with: {PROVISION}"
        )
    if made_for.partitions != topic.partitions:
        return (
            f"Topic {topic.name} has {topic.partitions} partitions, and sink {sink} of group {group} was provisioned "
            f"for {made_for.partitions}: keys have moved, so a content's events before and after lie in different "
            f"partitions, in no order among each other. Every sink goes on where it stands after: {PROVISION} "
            "--accept-partitions"
        )
    return None


def warn_of_create_time(kafka: Mapping[str, str], topic: str) -> str | None:
    """A warning (logged and returned) where producers, not the broker, stamp the records of `topic`."""
    try:
        stamped_by = settings_of(admin_client(kafka), topic).get("message.timestamp.type")
    except KafkaException as failure:  # not allowed to look: nothing depends on it
        log.info("topic_settings_unreadable", topic=topic, error=failure.args[0].str())
        return None
    if stamped_by != "CreateTime":
        return None
    warning = (
        f"Topic {topic} has message.timestamp.type=CreateTime: a producer's wrong clock moves the watermark. "
        "Set it to LogAppendTime (kafka-configs.sh --alter)."
    )
    log.warning("topic_with_create_time", topic=topic, meaning=warning)
    return warning
