"""What a start asks Kafka before it reads the positions: by a new client, where the last one was not answered."""

from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from sources import position_records


def test_a_try_that_failed_is_repeated_by_another_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash trial found a process that waited for its positions for ever, with a broker that was there again."""
    made: list[Any] = []

    def client(properties: Any) -> object:
        made.append(object())
        return made[-1]

    def written_end(admin: object, topic: str, partition: int) -> int:
        if admin is made[0]:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))
        return 0

    class Reader:
        def assign(self, places: Any) -> None: ...
        def close(self) -> None: ...

    monkeypatch.setattr(position_records, "AdminClient", client)
    monkeypatch.setattr(position_records, "written_end", written_end)
    monkeypatch.setattr(position_records, "position_consumer", lambda kafka: Reader())
    waited: list[str] = []
    assert position_records.read_last({}, "positions", waited.append) == {}
    assert waited == ["find the end of topic positions"]
    assert len(made) == 2
