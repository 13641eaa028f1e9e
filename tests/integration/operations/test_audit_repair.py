"""What the audit repairs, at exactly the system where it is wrong; and the boards counted anew."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import redis

from sinks.redis_layout import SUMMARY_FIELD, Group
from tests.integration.operations.audit_place import CONTENT, ROOT, AuditPlace, found


@pytest.fixture
def full(kafka, postgres, unique, tmp_path, redis_url):
    """Twenty rows, everywhere."""
    place = AuditPlace(kafka, postgres, unique, tmp_path, redis_url)
    place.ids = [
        *place.insert(10),
        *place.insert(10, event_type="finish", event_ts=place.moment + timedelta(seconds=70)),
    ]
    place.capture(place.ids)
    place.deliver()
    place.count()
    return place


def boards(place, partition=0):
    """(client, key of a minute that has a row of CONTENT)."""
    client = redis.Redis.from_url(place.redis_url)
    keys = Group(place.group, place.topic, 10).partition(partition)
    minute = int(place.moment.timestamp()) // 60 * 60
    assert client.hexists(keys.totals("minute", minute), CONTENT)
    return client, keys.totals("minute", minute)


def test_one_deleted_one_doubled_one_altered_are_named_and_repaired(full):
    ids = [str(each) for each in full.ids]
    rows = {row["event_id"]: row for row in full.bigquery.held}
    full.bigquery.held.remove(rows[ids[0]])
    full.bigquery.held.append(dict(rows[ids[1]]))
    rows[ids[2]]["raw_payload"] = "{}"
    bodies = {json.loads(body)["event_id"]: body for body in full.partner}
    full.partner.remove(bodies[ids[3]])
    client, minute = boards(full)
    numbers = bytearray(client.hget(minute, CONTENT))
    numbers[0] += 1
    client.hset(minute, CONTENT, bytes(numbers))
    report = full.audit()
    where = f"{CONTENT} minute {full.moment:%Y-%m-%dT%H:%MZ} (6 of 5 events) [0]"
    assert found(report) == {
        ("bigquery", "missing"): [ids[0]],
        ("bigquery", "doubled"): [ids[1]],
        ("bigquery", "altered"): [ids[2]],
        ("partner", "missing"): [ids[3]],
        ("redis", "doubled"): [where],
    }
    assert not report.clean
    assert [line.partition(":")[0] for line in full.repair()] == [
        "sent again for bigquery alone",
        "sent again for partner alone",
        "corrected in BigQuery",
        "rebuilt in Redis",
    ]
    on_their_way = full.audit()
    assert on_their_way.clean, found(on_their_way)
    assert [each.not_due for each in on_their_way.sums if each.sink in ("bigquery", "partner")] == [1, 1]
    assert full.repair() == []  # what is on its way is not sent again
    full.bigquery.held.clear()
    full.partner.clear()
    full.deliver(letters=False)  # all that lies there, the lost originals too
    full.count()
    assert found(full.audit()) == {("bigquery", "doubled"): [ids[0]], ("partner", "doubled"): [ids[3]]}


def test_a_repair_that_was_delivered_closes_the_sums(full):
    row = full.bigquery.held.pop()
    full.repair()
    [sent] = [batch for batch in full.records() if batch.targets]
    assert sent.targets[-1] == "bigquery"
    assert sent.event_ids[-1] == row["event_id"]
    full.bigquery.held.append(
        {**row, "kafka_offset": int(sent.offsets[-1]), "kafka_partition": sent.span.partition.partition}
    )
    full.settle()
    report = full.audit()
    assert report.clean, found(report)
    assert {each.sink: each.repaired for each in report.sums}["bigquery"] == 1


def test_of_two_records_with_one_id_only_the_lost_one_is_sent_again(full):
    event = {"id": "twice", "content_id": None, "event_type": "play", "event_ts": full.moment.isoformat()}
    full.produce([(None, json.dumps(event).encode())] * 2)
    full.bigquery.held.clear()
    full.partner.clear()
    full.deliver()
    full.count()
    assert full.audit().clean
    full.bigquery.held.remove(next(row for row in full.bigquery.held if row["event_id"] == "twice"))
    full.partner.remove(next(body for body in full.partner if b'"twice"' in body))
    report = full.audit()
    assert found(report) == {
        ("bigquery", "missing"): ["twice"],
        ("partner", "missing"): ["twice"],
        ("kafka", "from elsewhere"): ["twice"],
    }
    assert full.repair() == [
        "sent again for bigquery alone: 1 events",
        "sent again for partner alone: 1 events",
    ]
    assert full.audit().clean


def test_rows_that_kafka_lacks_are_captured_once(full):
    lost = full.insert(3)
    with psycopg.connect(full.postgres) as connection:
        connection.execute("UPDATE engagement_events SET raw_payload = NULL, device = NULL WHERE id = %s", [lost[0]])
    assert found(full.audit())["kafka", "missing"] == [str(each) for each in lost]
    assert full.repair() == ["sent to Kafka: 3 rows"]
    report = full.audit()
    assert report.clean, found(report)
    assert full.repair() == []


def test_boards_that_lost_gained_or_never_had_a_row_are_named_and_rebuilt(full):
    client, minute = boards(full)
    client.hdel(minute, CONTENT)
    client.hset(minute, "nobody", bytes(72))
    client.zadd(f"{minute}:scores", {"nobody": 1})
    client.hset(minute, SUMMARY_FIELD, bytes(16))
    _, other = boards(full, 1)
    numbers = bytearray(client.hget(other, CONTENT))
    numbers[8 * 8] += 1  # the score alone
    client.hset(other, CONTENT, bytes(numbers))
    name = f"minute {full.moment:%Y-%m-%dT%H:%MZ}"
    assert found(full.audit()) == {
        ("redis", "missing"): [f"{CONTENT} {name} [0]"],
        ("redis", "unexpected"): [f"nobody {name} [0]"],
        ("redis", "altered"): sorted([f"{CONTENT} {name} [1]", f"{name} as a whole [0]"]),
    }
    assert len(full.repair()) == 2
    assert full.audit().clean
    assert [member for member, _ in client.zrange(f"{minute}:scores", 0, -1, withscores=True)] == [CONTENT.encode()]


def test_late_events_are_counted_as_the_flow_does(full):
    now = datetime.now(UTC)
    full.capture(full.insert(2, event_ts=now))
    full.capture(full.insert(4, event_ts=now - timedelta(minutes=45)))
    full.deliver()
    full.bigquery.held.clear()
    full.partner.clear()
    full.deliver(letters=False)
    full.count()
    report = full.audit()
    assert report.clean, found(report)
    client = redis.Redis.from_url(full.redis_url)
    assert client.hget(Group(full.group, full.topic, 10).partition(0).position, "total_late") == b"2"


def test_a_length_that_changed_since_is_stale_where_bigquery_shows_it(full):
    with psycopg.connect(full.postgres) as connection:
        connection.execute("UPDATE content SET length_seconds = 1700 WHERE id = %s", [CONTENT])
    report = full.audit()
    assert report.clean, found(report)
    assert {where for where, kind in found(report) if kind == "stale"} == {"bigquery", "redis"}


def test_what_redis_has_not_counted_yet_is_not_due(full):
    full.capture(full.insert(5))
    report = full.audit(sinks=("redis",))
    assert report.clean, found(report)
    assert [(each.sink, each.not_due) for each in report.sums] == [("kafka", 0), ("redis", 5)]
    assert not any("Redis has counted nothing" in note for note in report.notes)
    with redis.Redis.from_url(full.redis_url) as client:
        client.delete(*client.keys(f"*{full.topic}/*:position"))
    assert "Redis has counted nothing of Kafka partitions [0, 1]" in full.audit(sinks=("redis",)).notes[-1]


def command(place, *arguments, **more):
    """python -m operations.audit; (exit code, what it said)"""
    sinks = ("--sinks", "partner,redis,dead_letters", "--from", "1970-01-01", "--wait", "0", "--max-names", "1")
    partner = ("--partner-ids", str(place.ids_file()))
    run = subprocess.run(
        [sys.executable, "-m", "operations.audit", *sinks, *partner, *arguments],
        cwd=ROOT,
        env={**os.environ, **place.environment(**more)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return run.returncode, run.stdout + run.stderr


def test_the_command_says_what_differs_and_repairs_it(full):
    code, said = command(full)
    assert (code, said.count("equal")) == (0, 4), said
    ids = [json.loads(body)["event_id"] for body in full.partner[:2]]
    del full.partner[:2]
    file = full.folder / "report.json"
    code, said = command(full, "--json", str(file))
    assert code == 1
    assert f"partner: 2 missing: {min(ids)} and 1 more" in said or f"partner: 2 missing: {max(ids)} and 1 more" in said
    report = json.loads(file.read_text())
    assert [(each["where"], each["kind"], sorted(each["names"])) for each in report["findings"]] == [
        ("partner", "missing", sorted(ids))
    ]
    code, said = command(full, "--repair")
    assert "sent again for partner alone: 2 events" in said, said
    assert code == 0, said
    assert command(full, "--repair")[0] == 0
    assert sum(len(batch) for batch in full.records()) == 22


def test_a_service_that_is_away_is_said_in_a_sentence_and_is_no_difference(full):
    away = "redis://127.0.0.1:1"
    code, said = command(full, REDIS_URL=away)
    assert code == 2
    assert "Could not look into Redis: " in said
    assert "Traceback" not in said
    code, said = command(full, DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    assert (code, "Could not look into PostgreSQL: " in said) == (2, True), said
    code, said = command(full, KAFKA_BOOTSTRAP_SERVERS="")
    assert (code, "KAFKA_BOOTSTRAP_SERVERS: missing" in said) == (2, True), said
    code, said = command(full, KAFKA_TOPIC="no-such-topic")
    assert (code, "it has no topic no-such-topic" in said) == (2, True), said
