"""A client whose brokers are away: told, and said every ten seconds instead of twenty times a second."""

from confluent_kafka import KafkaError
from structlog.testing import capture_logs

from sources.kafka_brokers import AWAY_S, Brokers

REFUSED = KafkaError(KafkaError._TRANSPORT, "k:9092/bootstrap: Connection refused")
DOWN = KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down")


def test_brokers_are_away_from_the_first_word_until_records_come_or_nothing_more_is_said() -> None:
    now = [100.0]
    brokers = Brokers(lambda: now[0])
    assert brokers.away() == ""
    brokers(REFUSED)
    assert brokers.away() == ""  # others may answer
    brokers(DOWN)
    assert "Connection refused" in brokers.away()
    brokers.answered()
    assert brokers.away() == ""
    brokers(DOWN)
    now[0] += AWAY_S
    assert brokers.away() == ""


def test_each_kind_of_error_is_said_once_in_ten_seconds() -> None:
    now = [0.0]
    brokers = Brokers(lambda: now[0], partition=3)
    with capture_logs() as said:
        for _ in range(400):  # twenty seconds
            brokers(REFUSED)
            brokers(DOWN)
            now[0] += 0.05
    assert len(said) == 4
    assert said[0]["partition"] == 3
