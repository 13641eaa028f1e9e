"""`python -m api` as a process: it streams, refuses what is not safe, and ends within five seconds of SIGTERM."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.observer import Observer
from api.queries import TotalsReader
from sinks.redis_client import connect
from sinks.redis_status import StatusBoard
from tests.integration.sinks.redis_totals import keys_of
from tests.pipeline import free_port

ROOT = Path(__file__).parents[3]


@contextmanager
def running(env: dict[str, str], wait_for: Callable[..., Any]) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """(its address, the process), once it answers."""
    port = free_port()
    api = subprocess.Popen([sys.executable, "-m", "api"], env=os.environ | env | {"API_PORT": str(port)}, cwd=ROOT)
    url = f"http://127.0.0.1:{port}"
    try:

        def answers() -> bool:
            assert api.poll() is None
            try:
                return httpx.get(f"{url}/health", timeout=5).status_code == 200
            except httpx.TransportError:
                return False

        wait_for(answers, timeout=60, message="the API to answer")
        yield url, api
    finally:
        api.kill()
        api.wait()


def first_events(stream: Iterator[str], kinds: set[str]) -> dict[str, Any]:
    """kind -> data of the first event of each of these kinds, and of those before the last of them."""
    found: dict[str, Any] = {}
    kind = ""
    for line in stream:
        name, _, value = line.partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            found.setdefault(kind, json.loads(value))
            if kinds <= found.keys():
                return found
    raise AssertionError(f"the stream ended after {found.keys()}")


def test_it_streams_from_the_start_and_ends_at_sigterm_with_the_stream_open(
    kafka: Any, redis_url: str, unique: str, wait_for: Callable[..., Any]
) -> None:
    topic = kafka.topic(partitions=2)
    env = {"REDIS_URL": redis_url, "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap, "KAFKA_TOPIC": topic}
    env |= {"KAFKA_CONSUMER_GROUP": unique, "KAFKA_TOPIC_DEAD_LETTERS": kafka.topic(partitions=1)}
    with running(env, wait_for) as (url, api), httpx.stream("GET", f"{url}/stream", timeout=30) as stream:
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        assert (stream.headers["Cache-Control"], stream.headers["X-Accel-Buffering"]) == ("no-store", "no")
        lines = stream.iter_lines()
        kinds = {"hello", "tick", "meta", "board", "windows", "pipeline", "rejected"}
        found = first_events(lines, kinds)
        assert found["tick"]["phase"] == "starting"
        assert found["rejected"]["total"] == 0
        assert len(found["windows"]["windows"]) == 4
        while not (stages := found["pipeline"]["stages"]):  # nobody has looked yet
            found = first_events(lines, {"pipeline"})
        assert [stage["name"] for stage in stages] == ["redis"]
        assert httpx.get(f"{url}/top-content", timeout=30).json()["rows"] == []
        api.send_signal(signal.SIGTERM)
        assert api.wait(5) == 0


def test_it_ticks_and_ends_while_redis_is_paused(redis_server: Any, unique: str, wait_for: Callable[..., Any]) -> None:
    env = {"REDIS_URL": redis_server.url, "KAFKA_CONSUMER_GROUP": unique}
    with running(env, wait_for) as (url, api), httpx.stream("GET", f"{url}/stream", timeout=30) as stream:
        lines = stream.iter_lines()
        first_events(lines, {"tick", "board"})
        redis_server.pause()
        phases = []
        while "no_board" not in phases:
            phases.append(first_events(lines, {"tick"})["tick"]["phase"])
            assert len(phases) < 30, phases
        health = httpx.get(f"{url}/health", timeout=5).json()
        assert (health["status"], health["phase"], health["services"]["redis"]) == ("down", "no_board", "down")
        assert httpx.get(f"{url}/ready", timeout=5).status_code == 503
        refused = httpx.get(f"{url}/content/x/stats", timeout=5)  # at once: others would wait behind it
        assert refused.status_code == 503
        assert "Redis does not answer: no answer since" in refused.json()["detail"]
        api.send_signal(signal.SIGTERM)
        assert api.wait(5) == 0


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_an_address_that_others_reach_needs_a_token(redis_url: str, host: str) -> None:
    env = os.environ | {"REDIS_URL": redis_url, "API_HOST": host, "API_PORT": "0"}
    found = subprocess.run([sys.executable, "-m", "api"], env=env, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert found.returncode == 1
    assert f"API_HOST={host}: can be reached from elsewhere, and no token is set: set API_TOKEN" in found.stderr
    assert "Traceback" not in found.stderr


def test_without_kafka_what_the_processes_say_is_taken(redis_url: str, unique: str) -> None:
    client = connect(redis_url)
    totals = TotalsReader(client, keys_of(unique), lateness_seconds=600)
    status = StatusBoard(client, unique)
    sinks = {"partner": {"offset_next": {"0": 90}, "breaker": "open", "error": "the partner answers 503"}}
    said = {"process": {"now": 1, "waiting": ""}, "sinks": sinks, "partitions": [{"partition": 0, "end": 100}]}
    status.write("partner.0-0", {name: json.dumps(value) for name, value in said.items()})
    observer = Observer(totals, status, sinks=("partner",), began=1000.0)
    assert observer.facts(1000.0).stages == []
    assert observer.look_at_redis(1000.0)
    (stage,) = [each for each in observer.facts(1001.0).stages if each.name == "partner"]
    assert (stage.state, stage.lag_events, stage.breaker.state) == ("stopped", 10, "open")
    assert stage.error is not None
    assert stage.error.words == "The partner answers 503."
    phase = observer.phase(1001.0)
    assert (phase.phase, phase.title) == ("sink_down", "Partner is down")
    assert observer.services(1001.0) == {"kafka": "ok", "redis": "ok", "postgres": "unknown", "partner": "down"}
