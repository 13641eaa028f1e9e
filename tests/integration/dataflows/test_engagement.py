"""The engagement flow as an operator meets it: settings, services that are away, directories, topics."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.pipeline import ROOT, Pipeline, events

WAIT_S = 30


def run_flow(env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bytewax.run", "dataflows.engagement"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def ended(flow: Any, wait_for: Callable[..., Any]) -> str:
    """What a flow that must end with a sentence said."""
    wait_for(lambda: flow.process.poll() is not None, timeout=60, message="the flow to end")
    assert flow.process.returncode == 1
    assert "Traceback" not in flow.said()
    return str(flow.said())


def test_missing_and_wrong_settings_are_one_error(pipeline) -> None:
    env = pipeline.environment(KAFKA_PARTITIONS="3-1", SINKS="redis,partner")
    for name in ("DATABASE_URL", "KAFKA_BOOTSTRAP_SERVERS", "REDIS_URL"):
        del env[name]
    run = run_flow(env)
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
    for name in ("DATABASE_URL", "KAFKA_BOOTSTRAP_SERVERS", "REDIS_URL", "KAFKA_PARTITIONS", "EXTERNAL_API_URL"):
        assert name in run.stderr


def test_a_flow_that_was_never_provisioned_names_the_command(pipeline) -> None:
    run = run_flow(pipeline.environment(KAFKA_TOPIC="nobody-made-this"))
    assert run.returncode == 1
    assert "python -m operations.provision" in run.stderr
    assert "Traceback" not in run.stderr


def test_services_that_are_away_at_start_are_waited_for(
    pipeline: Pipeline, redis_server: Any, wait_for: Callable[..., Any]
) -> None:
    pipeline.redis_url = redis_server.url
    redis_server.stop()
    pipeline.produce(events(pipeline.contents, 100))
    flow = pipeline.start()
    wait_for(lambda: "waiting_for_redis" in flow.said(), timeout=WAIT_S, message="the flow to say what it waits for")
    assert flow.process.poll() is None
    redis_server.start()
    pipeline.caught_up()
    pipeline.assert_equal()
    assert "Traceback" not in flow.said()


def test_kafka_away_at_start_is_waited_for(pipeline: Pipeline, wait_for: Callable[..., Any]) -> None:
    flow = pipeline.start(KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:9")
    wait_for(lambda: "waiting_for_kafka" in flow.said(), timeout=WAIT_S, message="the flow to say what it waits for")
    assert flow.process.poll() is None
    assert "Traceback" not in flow.said()


def test_a_stop_while_redis_is_down_exits_0_and_loses_nothing(
    pipeline: Pipeline, redis_server: Any, wait_for: Callable[..., Any]
) -> None:
    pipeline.redis_url = redis_server.url
    pipeline.produce(events(pipeline.contents, 500))
    flow = pipeline.start()
    pipeline.caught_up()
    redis_server.stop()
    pipeline.produce(events(pipeline.contents, 500, seed=2))
    wait_for(lambda: "waiting_for_redis" in flow.said(), timeout=WAIT_S, message="the flow to notice")
    assert flow.stop() == 0
    redis_server.start()
    pipeline.start()
    pipeline.caught_up()
    pipeline.assert_equal()


def test_without_postgresql_known_contents_go_on_and_an_unknown_one_holds_its_partition_alone(
    pipeline: Pipeline, postgres_server: Any, wait_for: Callable[..., Any]
) -> None:
    pipeline.postgres = postgres_server.dsn
    pipeline.__post_init__()
    pipeline.produce(events(pipeline.contents, 400))
    pipeline.start()
    pipeline.caught_up()
    postgres_server.stop()
    stranger = str(uuid4())
    (unknown,) = events([stranger], 1, seed=2, spread_s=1)
    pipeline.produce([unknown])
    holding = next(partition for partition, end in pipeline.ends().items() if end > pipeline.positions()[partition])
    pipeline.produce(events(pipeline.contents, 400, seed=3))
    ends = pipeline.ends()

    def others_went_on() -> bool:
        at = pipeline.positions()
        return all(at[partition] == end for partition, end in ends.items() if partition != holding)

    wait_for(others_went_on, timeout=WAIT_S, message="the other partitions")
    assert pipeline.positions()[holding] < ends[holding]
    postgres_server.start()
    with psycopg.connect(postgres_server.dsn, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO content VALUES (%s, 'late', 'Written while away', 'video', 600, now())", [stranger]
        )
    pipeline.lengths[stranger] = 600
    pipeline.caught_up()
    pipeline.assert_equal()


def test_a_directory_in_use_is_refused(pipeline: Pipeline, wait_for: Callable[..., Any]) -> None:
    first = pipeline.start()
    wait_for(lambda: "partition_claimed" in first.said(), timeout=WAIT_S, message="the first")
    assert "is in use by the living process" in ended(pipeline.start(), wait_for)
    assert first.process.poll() is None


def test_a_directory_made_for_other_work_is_refused(pipeline: Pipeline, wait_for: Callable[..., Any]) -> None:
    first = pipeline.start()
    wait_for(lambda: "partition_claimed" in first.said(), timeout=WAIT_S, message="the first")
    assert first.stop() == 0
    said = ended(pipeline.start(KAFKA_PARTITIONS="0-1"), wait_for)
    assert "made for other work" in said
    assert "partitions: [0, 1, 2, 3], now [0, 1]" in said


def test_partitions_that_the_topic_does_not_have_are_refused(pipeline: Pipeline, wait_for: Callable[..., Any]) -> None:
    assert "has partitions 0 to 3" in ended(pipeline.start(KAFKA_PARTITIONS="2-5"), wait_for)


@pytest.mark.parametrize("policy", ["allkeys-lru"])
def test_a_redis_that_may_forget_is_refused(
    pipeline: Pipeline, redis_server: Any, wait_for: Callable[..., Any], policy: str
) -> None:
    pipeline.redis_url = redis_server.url
    pipeline.client().config_set("maxmemory-policy", policy)
    assert "noeviction" in ended(pipeline.start(), wait_for)


def test_a_topic_recreated_under_the_flow_stops_it(
    pipeline: Pipeline, kafka: Any, wait_for: Callable[..., Any]
) -> None:
    pipeline.produce(events(pipeline.contents, 50))
    flow = pipeline.start()
    pipeline.caught_up()
    for done in kafka.admin.delete_topics([pipeline.topic]).values():
        done.result(10)
    wait_for(lambda: pipeline.topic not in kafka.admin.list_topics(timeout=5).topics, message="the topic to go")
    kafka.topic(4, pipeline.topic)
    assert "topic" in ended(flow, wait_for)
    said = ended(pipeline.start(), wait_for)
    assert "recreated" in said
    assert "python -m operations.provision" in said


def test_a_position_set_back_by_hand_counts_every_event_once(pipeline: Pipeline) -> None:
    pipeline.produce(events(pipeline.contents, 400))
    flow = pipeline.start()
    pipeline.caught_up()
    assert flow.stop() == 0

    for where in ("end", "earliest"):  # beyond what is counted, then behind it
        done = pipeline.provision("--position", f"redis={where}")
        assert done.returncode == 0, done.stderr
        flow = pipeline.start(f"again-{where}")  # no snapshot: totals are loaded from Redis
        pipeline.claimed(flow)
        pipeline.caught_up()
        pipeline.assert_equal()
        assert flow.stop() == 0


def test_a_changed_title_and_a_new_content_reach_the_reader(pipeline: Pipeline, wait_for: Callable[..., Any]) -> None:
    content = pipeline.contents[0]
    pipeline.start()
    client = pipeline.client()

    def titles() -> bytes:
        return b"".join(
            b"".join(client.hgetall(pipeline.keys(partition).contents).values())
            for partition in range(pipeline.partitions)
        )

    wait_for(lambda: titles().count(b"}") >= len(pipeline.contents), timeout=WAIT_S, message="every content's fields")
    with psycopg.connect(pipeline.postgres, autocommit=True) as connection:
        connection.execute("UPDATE content SET title = 'Quite another title' WHERE id = %s", [content])
    wait_for(lambda: b"Quite another title" in titles(), timeout=60, message="the changed title within 60 s")


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_broker_that_comes_back_is_read_on(
    postgres: str, redis_url: str, unique: str, tmp_path: Path, kafka_server: Any, how: str
) -> None:
    broker = SimpleNamespace(bootstrap=kafka_server.bootstrap, properties={"bootstrap.servers": kafka_server.bootstrap})
    pipeline = Pipeline(broker, postgres, redis_url, unique, tmp_path)
    try:
        pipeline.provision(SINKS="redis,dead_letters")
        pipeline.produce(events(pipeline.contents, 200))
        flow = pipeline.start(SINKS="redis,dead_letters")
        pipeline.caught_up()
        getattr(kafka_server, how)()
        kafka_server.start()
        pipeline.produce(events(pipeline.contents, 200, seed=2))
        pipeline.caught_up()
        pipeline.assert_equal()
        assert flow.process.poll() is None, flow.said()
    finally:
        pipeline.close()
