"""Have the table captured again, exactly: the mark for the capture that it sends what the topic lacks, then streams."""

from functools import partial

from operations.terminal import Problem, waiting
from settings import Settings
from sinks.capture_topic import CaptureTopic, capture_id
from sources.change_position import RECAPTURE, ChangePosition, decoded, encoded
from sources.change_stream import Changes
from sources.kafka_topics import admin_client, ask, describe
from sources.position_records import capture_key, read_last
from sources.provisioned import PROVISION


def order_recapture(settings: Settings) -> str:
    """Mark the position of the capture, whatever it stands at; a line that says so.

    The capture that runs is fenced and ends. The next one to start makes a new slot, takes its snapshot, and sends the
    rows that the topic does not hold. Ordered again in the middle of it, it begins again: as exact, only later.
    """
    group, topic, slot = settings.kafka_consumer_group, settings.kafka_topic_engagement_events, settings.cdc_slot
    ledger: CaptureTopic[Changes] = CaptureTopic(
        settings.kafka,
        capture_id(group, topic, slot),
        topic=topic,
        topic_id=partial(_topic_id, settings),
        positions_topic=settings.topic_positions,
        position_key=capture_key(slot),
        read_positions=partial(read_last, settings.kafka, settings.topic_positions, waiting, captures=True),
        stopping=lambda: False,
        abandon=lambda: None,
        ending=lambda doing: None,
        remedy=RECAPTURE,
        of_any_topic=True,
    )
    stored = ledger.open()
    stands = ChangePosition("", 0, "", "creating") if stored is None else decoded(stored)
    ledger.write([], encoded(stands.captured_again()))
    was = "had no position" if stored is None else f"stood at {stands.lsn}"
    return (
        f"slot {slot}, which {was}: the next start of the capture makes the slot anew and sends the rows that topic "
        f"{topic} lacks. A capture that runs now ends, and begins with it a minute later."
    )


def _topic_id(settings: Settings) -> str:
    admin = admin_client(settings.kafka)
    topics = []
    for name in (settings.topic_positions, settings.kafka_topic_engagement_events):
        found = ask(f"look up topic {name}", partial(describe, admin, name), waiting)
        if found is None:
            raise Problem(f"Kafka has no topic {name}: create it with: {PROVISION}")
        topics.append(found)
    return topics[-1].topic_id
