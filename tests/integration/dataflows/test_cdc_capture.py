"""The capture as a process: rows that are there, rows that come, and how it ends."""

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from tests.fakes.capture import CONTENT, Captured, create_tables, ids_in_table, insert


@pytest.fixture
def captured(kafka: Any, postgres: str, unique: str) -> Iterator[Captured]:
    create_tables(postgres)
    topic = kafka.topic()
    kafka.topic(1, name=f"{topic}.positions", cleanup_policy="compact")
    it = Captured(postgres, kafka.properties, topic, unique)
    yield it
    it.close()


def test_rows_that_are_there_and_rows_that_come_reach_kafka_once(captured: Captured) -> None:
    insert(captured.dsn, 100)
    capture = captured.capture().start()
    captured.await_ids(lambda: ids_in_table(captured.dsn))
    insert(captured.dsn, 50, transactions=3)
    captured.await_ids(lambda: ids_in_table(captured.dsn))
    assert capture.stop() == 0
