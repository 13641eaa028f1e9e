"""Which answers of Kafka are waited out."""

import pytest
from confluent_kafka import KafkaError, KafkaException

from sources.kafka_topics import ask


@pytest.mark.parametrize(
    "code", [KafkaError._TRANSPORT, KafkaError.FENCED_LEADER_EPOCH, KafkaError.UNKNOWN_LEADER_EPOCH]
)
def test_a_broker_that_has_just_started_is_asked_again(code: int) -> None:
    """A crash trial found a start that ended with a traceback: its leader epoch was an older one."""
    failures, waited = [KafkaException(KafkaError(code))], list[str]()

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
