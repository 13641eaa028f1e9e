"""SIGTERM of the processes that no other test stops so: exit code 0 in time, and the next start sends nothing twice."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx
import pytest

from api.__main__ import STALE_S
from tests.fakes.capture import Captured, create_tables, ids_in_table, insert
from tests.pipeline import ROOT, Flow, Pipeline, events, free_port

STOP_S = 30
API_STOP_S = 5


@pytest.fixture
def captured(kafka: Any, postgres_server: Any, unique: str) -> Any:
    create_tables(postgres_server.dsn)
    topic = kafka.topic()
    kafka.topic(1, name=f"{topic}.positions", cleanup_policy="compact")
    it = Captured(postgres_server.dsn, kafka.properties, topic, unique)
    yield it
    it.close()


def test_a_capture_whose_postgresql_has_gone(
    captured: Captured, postgres_server: Any, wait_for: Callable[..., Any]
) -> None:
    insert(captured.dsn, 50)
    capture = captured.capture().start()
    captured.await_ids(lambda: ids_in_table(captured.dsn), timeout=60)
    postgres_server.kill()
    wait_for(lambda: capture.logged("waiting_for_postgres"), timeout=60)
    assert capture.stop(STOP_S) == 0
    postgres_server.start()
    insert(captured.dsn, 10)
    again = captured.capture().start()
    captured.await_ids(lambda: ids_in_table(captured.dsn), timeout=60)
    assert again.stop(STOP_S) == 0


def test_a_fenced_capture_backs_off_a_minute_and_heeds_a_stop(captured: Captured, wait_for: Callable[..., Any]) -> None:
    first = captured.capture().start()
    wait_for(lambda: first.logged("streaming"), timeout=60)
    second = captured.capture().start()
    assert first.ended(60) == 1
    third = captured.capture().start()
    wait_for(lambda: third.logged("backing_off"), timeout=60)
    assert 0 < third.logged("backing_off")[0]["seconds"] <= 60
    assert third.stop(STOP_S) == 0
    insert(captured.dsn, 10)
    captured.await_ids(lambda: ids_in_table(captured.dsn), timeout=60)
    assert second.running.poll() is None
    assert second.stop(STOP_S) == 0


@pytest.mark.parametrize("down", [False, True], ids=["up", "redis down"])
def test_a_cluster(pipeline: Pipeline, redis_server: Any, down: bool) -> None:
    pipeline.redis_url = redis_server.url
    pipeline.produce(events(pipeline.contents, 300))
    cluster = pipeline.start_cluster(2)
    pipeline.caught_up()
    if down:
        redis_server.stop()
        pipeline.produce(events(pipeline.contents, 300, seed=2))
    stop_together(cluster)
    if down:
        redis_server.start()
    pipeline.start()
    pipeline.caught_up()
    pipeline.assert_equal()


def stop_together(flows: list[Flow]) -> None:
    for flow in flows:
        flow.process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + STOP_S
    assert [flow.process.wait(max(0.1, deadline - time.monotonic())) for flow in flows] == [0] * len(flows)


def test_an_api_whose_redis_does_not_answer(
    redis_server: Any, unique: str, tmp_path: Any, wait_for: Callable[..., Any]
) -> None:
    """With a request under way and a stream open."""
    port = free_port()
    env = {"REDIS_URL": redis_server.url, "API_HOST": "127.0.0.1", "API_PORT": str(port)}
    log = (tmp_path / "api.log").open("wb")
    api = subprocess.Popen(
        [sys.executable, "-m", "api"], cwd=ROOT, env={"KAFKA_CONSUMER_GROUP": unique, **env}, stdout=log, stderr=log
    )
    base = f"http://127.0.0.1:{port}"

    def ask(path: str) -> None:
        with suppress(httpx.HTTPError):
            httpx.get(f"{base}{path}", timeout=60)

    def answers() -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(f"{base}/top-content", timeout=5).status_code == 200
        return False

    try:
        wait_for(answers, timeout=60, message="the API to answer")
        redis_server.pause()
        time.sleep(STALE_S)  # what was answered a moment ago would be answered again
        asking = [threading.Thread(target=ask, args=(path,)) for path in ("/top-content", "/stream")]
        for each in asking:
            each.start()
        with pytest.raises(subprocess.TimeoutExpired):  # both are under way
            api.wait(1)
        began = time.monotonic()
        api.send_signal(signal.SIGTERM)
        assert api.wait(20) == 0
        assert time.monotonic() - began < API_STOP_S + 3, (tmp_path / "api.log").read_text()  # on a busy machine
    finally:
        redis_server.resume()
        api.kill()
        api.wait()
        log.close()
    for each in asking:
        each.join(60)
