"""What a flow says of itself: on HEALTH_PORT and, every second, in Redis."""

import json
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import httpx

from sinks.redis_status import StatusBoard
from tests.pipeline import Pipeline, events, free_port


def test_health_ready_and_metrics_of_a_process(pipeline: Pipeline, wait_for: Callable[..., Any]) -> None:
    port = free_port()
    pipeline.produce([*events(pipeline.contents, 500), b"broken"])
    flow = pipeline.start(HEALTH_PORT=str(port))
    pipeline.claimed(flow)
    base = f"http://127.0.0.1:{port}"
    pipeline.caught_up()
    assert httpx.get(f"{base}/ready").status_code == 200
    health = httpx.get(f"{base}/health").json()
    assert health["state"] == "ok"
    assert sum(each["offset_next"] for each in health["partitions"]) == 501
    assert (health["events"]["processed"], health["events"]["rejected"]) == (500, 1)
    text = httpx.get(f"{base}/metrics").text
    for name in ("processed_events_total", "processing_latency_seconds_count", "kafka_lag_seconds"):
        assert name in text
    board = StatusBoard(pipeline.client(), pipeline.group)

    def told() -> dict[str, Any]:
        return {name: json.loads(said["events"]) for name, said in board.read().items()}

    wait_for(lambda: told().get("redis.0-3", {}).get("processed") == 500, message="the status in Redis")
    assert flow.stop() == 0


def test_health_names_the_destination_that_is_away(
    pipeline: Pipeline, postgres_server: Any, wait_for: Callable[..., Any]
) -> None:
    pipeline.postgres = postgres_server.dsn
    pipeline.__post_init__()
    port = free_port()
    flow = pipeline.start(HEALTH_PORT=str(port))
    pipeline.claimed(flow)
    postgres_server.stop()

    def troubles() -> str:
        return "; ".join(httpx.get(f"http://127.0.0.1:{port}/health").json()["troubles"])

    wait_for(lambda: "PostgreSQL" in troubles(), timeout=90, message="PostgreSQL to be named")
    assert flow.stop() == 0


def test_kafka_that_is_away_is_named_and_said_in_a_few_lines(
    pipeline: Pipeline, kafka_server: Any, wait_for: Callable[..., Any]
) -> None:
    pipeline.kafka = SimpleNamespace(
        bootstrap=kafka_server.bootstrap, properties={"bootstrap.servers": kafka_server.bootstrap}
    )
    pipeline.provision()
    port = free_port()
    flow = pipeline.start(HEALTH_PORT=str(port))
    pipeline.produce(events(pipeline.contents, 100))
    pipeline.claimed(flow)
    pipeline.caught_up()
    before = len(flow.said().splitlines())
    kafka_server.kill()

    def troubles() -> str:
        return "; ".join(httpx.get(f"http://127.0.0.1:{port}/health").json()["troubles"])

    wait_for(lambda: "Kafka: " in troubles(), timeout=30, message="Kafka to be named")
    assert "Connection refused" in troubles()
    later = time.monotonic() + 3
    wait_for(lambda: time.monotonic() > later, message="three seconds of waiting")
    said = flow.said().splitlines()[before:]
    assert any("Connection refused" in line for line in said)
    assert len(said) < 60, said[-5:]  # librdkafka alone would print 240 in three seconds
    flow.kill()
