"""The capture as a process: rows that are there, rows that come, and how it ends."""

import json
import re
import signal
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psycopg
import pytest
import redis
from confluent_kafka.admin import AdminClient, NewTopic

from sinks.redis_status import StatusBoard
from tests.fakes.capture import CONTENT, Captured, create_tables, ids_in_table, insert
from tests.pipeline import every, free_port


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


def test_order_is_the_order_of_commits_and_a_key_stays_on_its_partition(captured: Captured) -> None:
    capture = captured.capture().start()
    insert(captured.dsn, 40, transactions=25)
    captured.await_ids(lambda: ids_in_table(captured.dsn))
    seen: dict[int, list[int]] = {}
    partitions: dict[bytes | None, set[int]] = {}
    for partition, key, value in captured.reader.records:
        row = json.loads(value)
        seen.setdefault(partition, []).append(row["id"])
        partitions.setdefault(key, set()).add(partition)
        assert key == row["content_id"].encode()
    assert all(ids == sorted(ids) for ids in seen.values())
    assert {len(found) for found in partitions.values()} == {1}
    # The partition that Java's producers choose for this key among four (murmur2).
    one = [partition for partition, key, _ in captured.reader.records if key == CONTENT.encode()]
    assert set(one) == {murmur2_partition(CONTENT.encode(), 4)}
    assert capture.stop() == 0


def murmur2_partition(key: bytes, partitions: int) -> int:
    """Java's Utils.toPositive(Utils.murmur2(key)) % partitions."""
    mixer, mask = 0x5BD1E995, 0xFFFFFFFF
    value = (0x9747B28C ^ len(key)) & mask
    whole = len(key) // 4 * 4
    for at in range(0, whole, 4):
        k = int.from_bytes(key[at : at + 4], "little") * mixer & mask
        k = (k ^ (k >> 24)) * mixer & mask
        value = (value * mixer & mask) ^ k
    rest = key[whole:]
    if rest:
        value = (value ^ int.from_bytes(rest, "little")) * mixer & mask
    value = (value ^ (value >> 13)) * mixer & mask
    value ^= value >> 15
    return (value & 0x7FFFFFFF) % partitions


def test_a_stop_and_a_start_send_nothing_again(captured: Captured) -> None:
    for _ in range(3):
        capture = captured.capture().start()
        insert(captured.dsn, 30)
        captured.await_ids(lambda: ids_in_table(captured.dsn))
        assert capture.stop() == 0
        assert captured.slot_row()["active_pid"] is None  # type: ignore[index]
        insert(captured.dsn, 10)
    captured.capture().start()
    captured.await_ids(lambda: ids_in_table(captured.dsn))


def test_a_second_capture_takes_over_and_the_first_ends_with_a_sentence(captured: Captured) -> None:
    first = captured.capture().start()
    insert(captured.dsn, 10)
    captured.await_ids(lambda: ids_in_table(captured.dsn))
    second = captured.capture().start()
    assert first.ended() == 1
    assert "Another process has taken over" in first.logged("flow_stopped")[0]["why"]
    assert "Traceback" not in first.log
    insert(captured.dsn, 10)
    captured.await_ids(lambda: ids_in_table(captured.dsn))
    assert second.running.poll() is None


def test_a_capture_that_wakes_up_from_a_freeze_writes_nothing(captured: Captured) -> None:
    frozen = captured.capture().start()
    insert(captured.dsn, 10)
    captured.await_ids(lambda: ids_in_table(captured.dsn))
    frozen.running.send_signal(signal.SIGSTOP)
    insert(captured.dsn, 100, transactions=5)
    second = captured.capture().start()
    captured.await_ids(lambda: ids_in_table(captured.dsn))
    frozen.running.send_signal(signal.SIGCONT)
    assert frozen.ended() == 1
    insert(captured.dsn, 10)
    captured.await_ids(lambda: ids_in_table(captured.dsn))
    assert second.running.poll() is None


def test_connections_that_are_ended_are_made_again(captured: Captured, wait_for: Callable[..., Any]) -> None:
    capture = captured.capture().start()
    for _ in range(3):
        insert(captured.dsn, 20)
        captured.await_ids(lambda: ids_in_table(captured.dsn))
        with psycopg.connect(captured.dsn, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'engagement-capture' AND datname = current_database()"
            )
    wait_for(lambda: len(capture.logged("postgres_connection_lost")) == 3, message="the third loss to be noticed")
    assert capture.stop() == 0


def test_a_missing_topic_names_provision(captured: Captured) -> None:
    capture = captured.capture(KAFKA_TOPIC_ENGAGEMENT_EVENTS=f"{captured.topic}-missing").start()
    assert capture.ended() == 1
    assert "python -m operations.provision" in capture.logged("flow_stopped")[0]["why"]
    assert "Traceback" not in capture.log


def test_a_recreated_topic_stops_the_flow(captured: Captured, kafka: Any, wait_for: Callable[..., Any]) -> None:
    capture = captured.capture().start()
    wait_for(lambda: capture.logged("streaming"), timeout=30)
    kafka.admin.delete_topics([captured.topic])[captured.topic].result(10)
    wait_for(lambda: captured.topic not in kafka.admin.list_topics(timeout=5).topics)
    kafka.topic(name=captured.topic)
    assert capture.ended() == 1  # the running one notices
    assert "topic id" in capture.logged("flow_stopped")[0]["why"]
    again = captured.capture().start()
    assert again.ended() == 1
    assert "recreated" in again.logged("flow_stopped")[0]["why"]


def test_the_slot_dropped_under_load_nothing_is_missing_and_nothing_doubled(
    captured: Captured, wait_for: Callable[..., Any]
) -> None:
    """Dropped while rows come and the capture reads; refused with the ids; captured again, killed in the middle."""
    insert(captured.dsn, 100)
    capture = captured.capture().start()
    wait_for(lambda: capture.logged("streaming"), timeout=60)
    with every(0.02, lambda: insert(captured.dsn, 5)):
        captured.await_more(50)
        captured.drop_slot()
        assert capture.ended(60) == 1
        captured.await_rows(100)
        refused = captured.capture().start()
        assert refused.ended(60) == 1
        told = refused.logged("flow_stopped")[0]["why"]
        assert "python -m operations.provision --recapture" in told
        assert re.search(r"may be missing: \d+, ids \d+ to \d+, beyond \d+", told)
        captured.recapture()
        killed = captured.capture(prelude=KILLED_IN_THE_SNAPSHOT).start()
        assert killed.ended(60) == -9
        last = captured.capture().start()
        wait_for(lambda: last.logged("recaptured"), timeout=60)
        captured.await_more(50)
    captured.await_ids(lambda: ids_in_table(captured.dsn), timeout=60)
    assert last.stop() == 0


# Small pages, and death at the second of them.
KILLED_IN_THE_SNAPSHOT = """
import os, signal
from sinks.transactions import Transactions
from sources import postgres_changes
postgres_changes.SNAPSHOT_PAGE_ROWS = 60
run, done = Transactions.run, 0
def counted(self, records=(), *rest):
    global done
    run(self, records, *rest)
    done += 1
    if done == 4: os.kill(os.getpid(), signal.SIGKILL)
Transactions.run = counted
"""


def test_a_renamed_slot_is_refused_and_a_recapture_sends_nothing_twice(
    captured: Captured, wait_for: Callable[..., Any]
) -> None:
    insert(captured.dsn, 20)
    capture = captured.capture().start()
    captured.await_ids(lambda: ids_in_table(captured.dsn))
    assert capture.stop() == 0
    renamed = {"CDC_SLOT": f"{captured.slot}_2"}
    refused = captured.capture(**renamed).start()
    assert refused.ended(60) == 1
    assert "was CDC_SLOT or a topic changed" in refused.logged("flow_stopped")[0]["why"]
    captured.recapture(**renamed)
    last = captured.capture(**renamed).start()
    wait_for(lambda: last.logged("streaming"), timeout=60)
    insert(captured.dsn, 10)
    captured.await_ids(lambda: ids_in_table(captured.dsn))
    assert last.stop() == 0


def test_the_log_that_the_slot_keeps_is_told(captured: Captured, redis_url: str, wait_for: Callable[..., Any]) -> None:
    port = free_port()
    capture = captured.capture(HEALTH_PORT=str(port), REDIS_URL=redis_url).start()
    wait_for(lambda: capture.logged("streaming"), timeout=60)
    base = f"http://127.0.0.1:{port}"

    def told() -> dict[str, Any]:
        return dict(httpx.get(f"{base}/health").json()["capture"])

    wait_for(lambda: told()["retained_bytes"], timeout=30, message="the bytes that are kept")
    assert (told()["wal_status"], told()["trouble"], told()["limit_bytes"]) == ("reserved", "", 2**30)
    assert f'capture_slot_retained_bytes{{slot="{captured.slot}"}}' in httpx.get(f"{base}/metrics").text
    board = StatusBoard(redis.Redis.from_url(redis_url), captured.slot)
    wait_for(lambda: "retained_bytes" in board.read()[f"capture.{captured.slot}"]["capture"], timeout=10)
    assert capture.stop() == 0


def test_servers_that_are_away_at_the_start_are_waited_for(
    kafka_server: Any, postgres_server: Any, unique: str, wait_for: Callable[..., Any]
) -> None:
    create_tables(postgres_server.dsn)
    create_topics(kafka_server.bootstrap, unique)
    insert(postgres_server.dsn, 10)
    captured = Captured(postgres_server.dsn, {"bootstrap.servers": kafka_server.bootstrap}, unique, unique)
    kafka_server.stop()
    postgres_server.stop()
    try:
        capture = captured.capture().start()
        wait_for(lambda: capture.logged("waiting_for_kafka"), timeout=30)
        kafka_server.start()
        wait_for(lambda: capture.logged("waiting_for_postgres"), timeout=30)
        assert capture.stop() == 0
        capture = captured.capture().start()
        wait_for(lambda: capture.logged("waiting_for_postgres"), timeout=30)
        postgres_server.start()
        captured.await_ids(lambda: list(range(1, 11)))
        assert not any("Traceback" in each.log for each in captured.captures)
        assert capture.stop() == 0
    finally:
        captured.close()


def test_kafka_away_while_running_is_waited_for_and_a_stop_is_heeded(
    kafka_server: Any, postgres: str, unique: str, wait_for: Callable[..., Any]
) -> None:
    create_tables(postgres)
    create_topics(kafka_server.bootstrap, unique)
    captured = Captured(postgres, {"bootstrap.servers": kafka_server.bootstrap}, unique, unique)
    port = free_port()

    def lag_s() -> float:
        told = httpx.get(f"http://127.0.0.1:{port}/health").json()["capture"]["lag_seconds"]
        return -1.0 if told is None else float(told)

    try:
        capture = captured.capture(HEALTH_PORT=str(port)).start()
        insert(postgres, 10)
        captured.await_ids(lambda: ids_in_table(postgres))
        wait_for(lambda: lag_s() == 0, timeout=10, message="nothing more to read")
        kafka_server.kill()
        insert(postgres, 10)
        wait_for(lambda: capture.logged("waiting_for_kafka"), timeout=30)
        wait_for(lambda: lag_s() > 1, timeout=30, message="the age of the rows that wait")
        kafka_server.start()
        captured.await_ids(lambda: ids_in_table(postgres))
        wait_for(lambda: lag_s() == 0, timeout=10, message="nothing more to read")
        kafka_server.kill()
        insert(postgres, 10)
        wait_for(lambda: len(capture.logged("waiting_for_kafka")) > 1, timeout=30)
        assert capture.stop(timeout=30) == 0
        kafka_server.start()
        captured.capture().start()
        captured.await_ids(lambda: ids_in_table(postgres))
    finally:
        captured.close()


def create_topics(bootstrap: str, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.create_topics([NewTopic(topic, 4, 1), NewTopic(f"{topic}.positions", 1, 1)]).values():
        future.result(20)
