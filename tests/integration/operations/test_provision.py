"""What provision makes, on real services, as an operator calls it; and what a flow says that misses some of it."""

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from sinks.fenced_commit import FencedCommit
from sources.kafka_topics import admin_client, settings_of
from sources.positions import Fenced, FlowStopped, PartitionId
from sources.provisioned import check_provisioned

ROOT = Path(__file__).parents[3]
SQL = ROOT / "sql" / "postgres" / "0001_tables.sql"


class Place:
    """One installation: names of its own on the services of the run."""

    def __init__(self, kafka, postgres: str, name: str) -> None:
        self.kafka, self.postgres, self.group = kafka, postgres, name
        self.topic, self.dead_letters, self.positions = f"{name}-events", f"{name}-letters", f"{name}-events.positions"
        with psycopg.connect(postgres, autocommit=True) as connection:
            connection.execute(SQL.read_text())

    def provision(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "operations.provision", *arguments],
            cwd=ROOT,
            env={
                **{name: os.environ[name] for name in os.environ if name.startswith(("PATH", "HOME", "COVERAGE"))},
                "DATABASE_URL": self.postgres,
                "KAFKA_BOOTSTRAP_SERVERS": self.kafka.bootstrap,
                "KAFKA_TOPIC_ENGAGEMENT_EVENTS": self.topic,
                "KAFKA_TOPIC_DEAD_LETTERS": self.dead_letters,
                "KAFKA_TOPIC_PARTITIONS": "2",
                "KAFKA_CONSUMER_GROUP": self.group,
                "SINKS": "redis,partner,dead_letters",
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    def made(self) -> "Place":
        done = self.provision()
        assert done.returncode == 0, done.stdout + done.stderr
        return self

    def check(self, *sinks: str):
        return check_provisioned(self.kafka.properties, self.topic, self.positions, self.group, sinks)

    def position(self, sink: str, partition: int) -> int:
        consumer = Consumer({**self.kafka.properties, "group.id": f"{self.group}.{sink}"})
        try:
            return consumer.committed([TopicPartition(self.topic, partition)], timeout=10)[0].offset
        finally:
            consumer.close()

    def write(self, records: int, partition: int = 0) -> None:
        producer = Producer(self.kafka.properties)
        for number in range(records):
            producer.produce(self.topic, str(number), partition=partition)
        assert producer.flush(10) == 0

    def sink(self, name: str, partition: int = 0) -> FencedCommit:
        incarnation = PartitionId(self.topic, self.kafka.topic_id(self.topic), partition)
        return FencedCommit(self.kafka.properties, self.group, name, incarnation)


@pytest.fixture
def place(kafka, postgres, unique) -> Place:
    return Place(kafka, postgres, unique)


def test_a_first_run_makes_everything_and_a_second_one_changes_nothing(place) -> None:
    first, second = place.provision(), place.provision()

    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert [line.split()[0] for line in first.stdout.splitlines()] == ["created"] * 8
    assert [line.split()[0] for line in second.stdout.splitlines()] == ["there"] * 8
    settings = settings_of(admin_client(place.kafka.properties), place.topic)
    assert settings["message.timestamp.type"] == "LogAppendTime"
    assert place.check("redis", "bigquery", "partner", "dead_letters").partitions == 2
    for sink in ("bigquery", "partner", "dead_letters"):
        assert place.sink(sink).open().offset_next == 0
    with psycopg.connect(place.postgres) as connection:
        published = connection.execute("SELECT pubname, pubinsert, pubupdate, pubdelete FROM pg_publication").fetchall()
    assert published == [("engagement", True, False, False)]


def test_check_only_looks_and_names_what_is_missing(place) -> None:
    looked = place.provision("--check")

    assert looked.returncode == 1
    assert f"topic {place.topic}" in looked.stderr
    assert "publication engagement" in looked.stderr
    assert "python -m operations.provision" in looked.stderr
    assert place.topic not in place.kafka.admin.list_topics(timeout=10).topics
    assert place.made().provision("--check").returncode == 0


def test_a_second_run_does_not_move_a_position(place) -> None:
    place.made().write(10)
    place.sink("partner").open()
    partner = place.sink("partner")
    partner.open()
    partner.commit(7)

    place.made()

    assert place.position("partner", 0) == 7


def test_a_position_that_the_brokers_forgot_is_named_and_only_set_by_hand(place) -> None:
    place.made().write(10)
    (deleted,) = place.kafka.admin.delete_consumer_groups([f"{place.group}.partner"]).values()
    deleted.result(10)
    for arguments in (["--check"], []):
        done = place.provision(*arguments)
        assert done.returncode == 1
        assert "no longer have the position of sink partner in partitions [0, 1]" in done.stdout + done.stderr
    assert place.provision("--position", "partner/0=3", "--position", "partner/1=end").returncode == 0
    assert place.provision("--check").returncode == 0
    assert place.position("partner", 0) == 3


def test_a_flow_that_was_never_provisioned_names_the_command(place) -> None:
    with pytest.raises(FlowStopped, match=r"no topic .*python -m operations.provision"):
        place.check("redis")

    place.made()
    with pytest.raises(FlowStopped, match=r"never provisioned .*python -m operations.provision"):
        check_provisioned(place.kafka.properties, place.topic, place.positions, "another-group", ["redis"])


def test_a_recreated_topic_stops_the_flow_until_it_is_provisioned_anew(place, wait_for) -> None:
    place.made().write(5)
    partner = place.sink("partner")
    partner.open()
    partner.commit(5)
    place.kafka.admin.delete_topics([place.topic])[place.topic].result(20)
    wait_for(lambda: place.topic not in place.kafka.admin.list_topics(timeout=10).topics)
    place.kafka.topic(partitions=2, name=place.topic)

    with pytest.raises(FlowStopped, match="was recreated"):
        place.check("partner")

    place.made()
    assert place.check("partner", "redis")
    assert place.sink("partner").open().offset_next == 0


def test_more_partitions_stop_the_flow_until_they_are_accepted(place, wait_for) -> None:
    from confluent_kafka.admin import NewPartitions

    place.made().write(5)
    partner = place.sink("partner")
    partner.open()
    partner.commit(5)
    place.kafka.admin.create_partitions([NewPartitions(place.topic, 3)])[place.topic].result(20)
    wait_for(lambda: len(place.kafka.admin.list_topics(place.topic, timeout=10).topics[place.topic].partitions) == 3)

    with pytest.raises(FlowStopped, match=r"3 partitions.*--accept-partitions"):
        place.check("partner")
    refused = place.provision()
    assert refused.returncode == 1
    assert "--accept-partitions" in refused.stderr

    assert place.provision("--accept-partitions").returncode == 0
    assert place.check("partner").partitions == 3
    assert [place.position("partner", partition) for partition in range(3)] == [5, 0, 0]


def test_an_operator_sets_a_position_and_the_flow_that_holds_it_is_fenced(place) -> None:
    place.made().write(10)
    running = place.sink("partner")
    running.open()
    running.commit(4)

    done = place.provision("--position", "partner/0=8", "--position", "dead_letters=end")

    assert done.returncode == 0, done.stderr
    with pytest.raises(Fenced):
        running.commit(5)
    assert place.sink("partner").open().offset_next == 8
    assert (place.position("dead_letters", 0), place.position("dead_letters", 1)) == (10, 0)


@pytest.mark.parametrize(
    ("order", "words"),
    [
        ("partner=11", "holds offsets 0 to 10, not 11"),
        ("partner/5=end", "no partition 5"),
        ("nobody=end", "no sink 'nobody'"),
        ("partner=soon", "earliest, end or an offset"),
        ("redis=end", "set REDIS_URL"),
    ],
)
def test_a_position_that_makes_no_sense_is_refused(place, order, words) -> None:
    place.made().write(10, partition=0)

    refused = place.provision("--position", order)

    assert refused.returncode != 0
    assert words in " ".join(refused.stderr.replace("│", " ").split())
    assert place.position("partner", 0) == 0


def test_the_position_in_redis_is_set_there(place, redis_url) -> None:
    import redis

    place.made().write(10)

    done = place.provision("--position", "redis=end", REDIS_URL=redis_url)

    assert done.returncode == 0, done.stderr
    stored = redis.Redis.from_url(redis_url).hgetall(f"{{{place.group}/{place.topic}/0}}:position")
    assert stored[b"next"] == b"10"
    assert stored[b"topic_id"].decode() == place.kafka.topic_id(place.topic)


def test_a_publication_of_something_else_is_refused_in_words(place) -> None:
    with psycopg.connect(place.postgres, autocommit=True) as connection:
        connection.execute("CREATE PUBLICATION engagement FOR TABLE content")

    refused = place.provision()

    assert refused.returncode == 1
    assert "DROP PUBLICATION engagement" in refused.stderr


def test_a_database_without_tables_is_named(place) -> None:
    with psycopg.connect(place.postgres, autocommit=True) as connection:
        connection.execute("DROP TABLE engagement_events")

    refused = place.provision()

    assert refused.returncode == 1
    assert "apply sql/postgres" in refused.stderr


def test_a_topic_stamped_by_producers_is_warned_about(place) -> None:
    place.kafka.topic(partitions=2, name=place.topic, message_timestamp_type="CreateTime")

    assert "LogAppendTime" in place.made().provision().stderr


def test_the_tables_in_bigquery_are_made_where_sinks_name_it(place, bigquery_emulator) -> None:
    environment = {
        "SINKS": "bigquery",
        "BIGQUERY_PROJECT_ID": bigquery_emulator.project,
        "BIGQUERY_DATASET_ID": place.group,
        "BIGQUERY_EMULATOR_HOST": bigquery_emulator.rest,
        "BIGQUERY_EMULATOR_GRPC_HOST": bigquery_emulator.grpc,
    }

    looked = place.provision("--check", **environment)
    made = place.provision(**environment)
    again = place.provision("--check", **environment)

    assert f"BigQuery dataset {bigquery_emulator.project}.{place.group} is missing" in looked.stdout
    assert made.returncode == 0, made.stderr
    assert f"{place.group}.enriched_events" in made.stdout
    assert again.returncode == 0, again.stdout + again.stderr


def test_a_service_that_is_away_is_waited_for_and_said_to_be(place) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "DATABASE_URL": place.postgres,
        "SINKS": "redis",
    }
    command = [sys.executable, "-m", "operations.provision", "--check"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as waiting:
        assert waiting.stderr is not None
        assert any("waiting   to reach Kafka at 127.0.0.1:1" in line for line in waiting.stderr)  # the first such line
        assert waiting.poll() is None
        waiting.kill()
