"""Which answers of Kafka are waited out."""

import pytest
from confluent_kafka import KafkaError, KafkaException

from sources.kafka_topics import ask


@pytest.mark.parametrize(
    "failure",
    [
        KafkaException(KafkaError(KafkaError._TRANSPORT)),
        KafkaException(KafkaError(KafkaError.FENCED_LEADER_EPOCH)),
        KafkaException(KafkaError(KafkaError.UNKNOWN_LEADER_EPOCH)),
        TimeoutError("the future of list_offsets"),
    ],
)
def test_a_broker_that_has_just_started_is_asked_again(failure: Exception) -> None:
    """Crash trials found starts that ended with a traceback: an older leader epoch, a future without an answer."""
    failures, waited = [failure], list[str]()

    def call() -> str:
        if failures:
            raise failures.pop()
        return "answer"

    assert ask("look", call, waited.append) == "answer"
    assert waited == ["look"]


def test_a_refusal_is_not_waited_out() -> None:
    def call() -> None:
        raise KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))

    with pytest.raises(KafkaException):
        ask("look", call, lambda what: None)
