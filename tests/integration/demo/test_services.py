"""The embedded services start, keep their data, stop, and never outlive whoever started them."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import psycopg
import pytest
import redis
from confluent_kafka import Producer

from demo.services import KINDS, children, jars
from tests.process_tree import children_of, lives

ROOT = Path(__file__).parents[3]


@pytest.fixture
def open_folder():
    """A folder that PostgreSQL's user can reach (tmp_path is ours alone)."""
    folder = Path(tempfile.mkdtemp(prefix="engagement-services-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


def test_kafka_takes_a_record(kafka):
    topic = kafka.topic(partitions=2)
    producer = Producer(kafka.properties)
    reports = []
    producer.produce(topic, b"value", on_delivery=lambda error, message: reports.append((error, message.offset())))
    assert producer.flush(10) == 0
    assert reports == [(None, 0)]
    assert kafka.topic_id(topic)


def test_kafka_takes_a_cluster_id_that_begins_with_a_hyphen(tmp_path, monkeypatch):
    monkeypatch.setattr("uuid.uuid4", lambda: uuid.UUID(bytes=b"\xfb" * 16))  # one in 64 does
    KINDS["kafka"](tmp_path).prepare()
    assert "cluster.id=-_v7" in (tmp_path / "data" / "meta.properties").read_text()


def test_a_fresh_database_is_empty_and_ready_for_logical_replication(postgres):
    with psycopg.connect(postgres) as connection:
        tables = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
        assert tables == (0,)
        assert connection.execute("SHOW wal_level").fetchone() == ("logical",)


def test_a_slot_left_behind_does_not_keep_a_database(postgres, unique):
    with psycopg.connect(postgres) as connection:
        connection.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [unique])


def test_valkey_never_evicts(redis_url):
    client = redis.Redis.from_url(redis_url, decode_responses=True)
    assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_what_valkey_acknowledged_survives_kill_9(redis_server):
    client = redis.Redis.from_url(redis_server.url)
    client.set("key", "value")
    redis_server.kill()
    redis_server.start()
    assert client.get("key") == b"value"
    redis_server.flush()
    assert client.get("key") is None


def test_postgres_and_kafka_come_back_on_their_ports_after_kill_9(postgres_server, kafka_server):
    before = postgres_server.dsn, kafka_server.bootstrap
    with psycopg.connect(postgres_server.dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept (id int)")
    postgres_server.kill()
    kafka_server.kill()
    postgres_server.start()
    kafka_server.start()
    assert (postgres_server.dsn, kafka_server.bootstrap) == before
    with psycopg.connect(postgres_server.dsn) as connection:
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)


def test_the_bigquery_emulator_answers_a_query(bigquery_emulator):
    from google.api_core.client_options import ClientOptions
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import bigquery

    options = ClientOptions(api_endpoint=f"http://{bigquery_emulator.rest}")
    client = bigquery.Client(bigquery_emulator.project, AnonymousCredentials(), client_options=options)
    assert [tuple(row) for row in client.query_and_wait("SELECT 1 + 1 AS two")] == [(2,)]
    client.close()


@pytest.mark.parametrize("kind", ["redis", "postgres", "kafka"])
@pytest.mark.parametrize("victim", ["watched", "keeper"])
def test_kill_9_leaves_nothing_behind(kind, victim, open_folder, wait_for):
    root = open_folder / kind
    watched = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    command = [sys.executable, "-m", "demo.services", kind, "--root", str(root), "--watch", str(watched.pid)]
    keeper = subprocess.Popen(command, cwd=ROOT)
    try:
        wait_for((root / "address.json").exists, 60, f"{kind} to start")
        json.loads((root / "address.json").read_text())
        service = children_of(keeper.pid)
        assert service
        (watched if victim == "watched" else keeper).kill()
        keeper.wait(15)
        wait_for(lambda: not any(map(lives, service)), 10, f"{kind} to end")
    finally:
        watched.kill()
        watched.communicate()
        keeper.kill()
        keeper.wait()


def test_a_service_that_cannot_start_says_why(tmp_path):
    server = KINDS["redis"](tmp_path)
    server.prepare()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", server.ports[0]))
        taken.listen()
        server.spawn()
        server.running().process.wait(10)
        with pytest.raises(children.ServiceFailed, match=r"Valkey ended with exit status 1 (.|\n)*in use"):
            children.wait_until(lambda: False, server.running())


def test_a_jar_that_is_not_the_locked_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(jars, "_locked", lambda: [("org.slf4j:slf4j-api:1.7.36", "0" * 64)])
    said = []
    with pytest.raises(children.ServiceFailed, match=r"slf4j-api-1\.7\.36\.jar is not the jar"):
        jars.kafka_jars(said.append)
    assert "43 MB" in said[0]
    assert not list(tmp_path.rglob("*.jar"))


def test_a_child_that_ignores_its_stop_signal_is_killed(tmp_path):
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    child = children.spawn("stubborn", [sys.executable, "-c", code], log=tmp_path / "log")
    children.wait_until(lambda: "up" in child.last_lines(), child)
    assert child.stop(patience_s=0.2) == -signal.SIGKILL


def test_the_main_thread_rule_is_enforced(tmp_path):
    import concurrent.futures

    with concurrent.futures.ThreadPoolExecutor() as pool, pytest.raises(RuntimeError, match="main thread"):
        pool.submit(children.spawn, "late", ["true"], log=tmp_path / "log").result()


def test_nothing_of_ours_listens_on_the_ports_of_the_api():
    from demo.services.places import API_PORT, free_port

    assert API_PORT not in {free_port() for _ in range(50)}
