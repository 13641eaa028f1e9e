"""What Kafka says about a topic: its incarnation, its partitions, and how its records are stamped."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import stamina
import structlog
from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType  # type: ignore[attr-defined]

from sources.kafka_brokers import QUIET

ANSWER_SECONDS = 5.0
WAIT_SECONDS_MAX = 2.0
# Nobody answers, or the one that answers is still starting.
AWAY = frozenset(
    {
        KafkaError._TRANSPORT,
        KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._RESOLVE,
        KafkaError._WAIT_COORD,
        KafkaError._NOENT,  # "No leaders found": the topic was made a moment ago
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.FENCED_LEADER_EPOCH,  # the client's view of the leader is older or newer than the broker's own
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
    }
)

log = structlog.get_logger()
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Topic:
    """One incarnation of a topic: recreated under the same name it has another `topic_id` (Kafka's own, as text)."""

    name: str
    topic_id: str
    partitions: int


def say(what: str) -> None:
    """What is waited for, in the log."""
    log.warning("waiting_for_kafka", to=what)


def is_away(failure: BaseException) -> bool:
    """Whether Kafka is to be asked again. TimeoutError: an answer's future gave up at the moment its request did."""
    if isinstance(failure, KafkaException):
        return failure.args[0].code() in AWAY
    return isinstance(failure, TimeoutError)


def ask(
    what: str,
    call: Callable[[], T],
    waiting: Callable[[str], None] = say,
    passing: Callable[[Exception], bool] = is_away,
) -> T:
    """The answer of `call`, asked again without end while it does not come (Kafka: while it is away).

    waiting  called with `what` before each repetition; whatever it raises ends the waiting
    passing  which failures it waits out"""
    for attempt in stamina.retry_context(on=passing, attempts=None, timeout=None, wait_max=WAIT_SECONDS_MAX):
        with attempt:
            if attempt.num > 1:
                waiting(what)
            return call()
    raise AssertionError("unreachable")


def admin_client(kafka: Mapping[str, str]) -> AdminClient:
    """An admin client; whoever asks says what is waited for. librdkafka passes over consumer and producer settings."""
    return AdminClient({**QUIET, **kafka})


def describe(admin: AdminClient, name: str) -> Topic | None:
    """The topic as it is now; None where there is none."""
    try:
        found = admin.describe_topics(TopicCollection([name]), request_timeout=ANSWER_SECONDS)[name].result()
    except KafkaException as failure:
        if failure.args[0].code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):
            return None
        raise
    return Topic(name, str(found.topic_id), len(found.partitions))


def settings_of(admin: AdminClient, name: str) -> dict[str, str]:
    """The topic's configuration, the broker's defaults included."""
    resource = ConfigResource(ResourceType.TOPIC, name)
    entries = admin.describe_configs([resource], request_timeout=ANSWER_SECONDS)[resource].result()
    return {entry.name: entry.value for entry in entries.values()}
