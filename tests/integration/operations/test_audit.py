"""The audit names exactly what a test has lost, doubled or altered, and nothing that is well or on its way."""

import copy
import json
import uuid
from datetime import timedelta

import psycopg
import pytest
from confluent_kafka import Producer, TopicPartition

from operations.audit import bigquery, topic
from operations.audit.auditor import Audit
from operations.audit.problem import CouldNotLook, looking_at
from operations.audit.repair import Repair
from sinks.bigquery_client import BigQueryTable
from sources.position_records import capture_key
from tests.conftest import shared_service
from tests.integration.operations.audit_place import CONTENT, AuditPlace, found


@pytest.fixture
def place(kafka, postgres, unique, tmp_path):
    return AuditPlace(kafka, postgres, unique, tmp_path)


@pytest.fixture
def full(place):
    """Twenty rows, everywhere."""
    place.ids = place.insert(20)
    place.capture(place.ids)
    place.deliver()
    return place


@pytest.fixture(scope="module")
def installation(kafka, tmp_path_factory):
    """Twenty rows, everywhere: for tests that touch only what BigQuery and the partner hold."""
    name = f"t{uuid.uuid4().hex[:12]}"
    server = shared_service("postgres")
    with psycopg.connect(server["dsn"], autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')
    dsn = f"postgresql://postgres@127.0.0.1:{server['port']}/{name}"
    place = AuditPlace(kafka, dsn, name, tmp_path_factory.mktemp("audit"))
    place.ids = place.insert(20)
    place.capture(place.ids)
    place.deliver()
    yield place
    with psycopg.connect(server["dsn"], autocommit=True) as admin:
        admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@pytest.fixture
def sinks(installation):
    """The installation, whose sinks may be spoiled."""
    held, partner = copy.deepcopy(installation.bigquery.held), list(installation.partner)
    yield installation
    installation.bigquery.held, installation.partner = held, partner


def test_an_empty_installation_is_clean(place):
    assert place.audit().clean


def test_what_is_everywhere_once_is_clean_and_adds_up(sinks):
    report = sinks.audit()
    assert report.clean, found(report)
    assert found(report) == {}
    assert [(each.sink, each.records, each.delivered) for each in report.sums][:3] == [
        ("kafka", 20, 20),
        ("bigquery", 20, 20),
        ("partner", 20, 20),
    ]


def test_lost_doubled_and_altered_events_are_named_in_each_system(sinks):
    ids = [str(each) for each in sinks.ids]
    rows = {row["event_id"]: row for row in sinks.bigquery.held}
    sinks.bigquery.held.remove(rows[ids[0]])
    sinks.bigquery.held.append(dict(rows[ids[1]]))
    rows[ids[2]]["device"] = "tv"
    bodies = {json.loads(body)["event_id"]: body for body in sinks.partner}
    sinks.partner.remove(bodies[ids[3]])
    sinks.partner.append(bodies[ids[4]])
    sinks.partner.remove(bodies[ids[5]])
    sinks.partner.append(bodies[ids[5]].replace(b"900000", b"900001"))
    report = sinks.audit()
    assert found(report) == {
        ("bigquery", "missing"): [ids[0]],
        ("bigquery", "doubled"): [ids[1]],
        ("bigquery", "altered"): [ids[2]],
        ("partner", "missing"): [ids[3]],
        ("partner", "doubled"): [ids[4]],
        ("partner", "altered"): [ids[5]],
    }
    assert not report.clean
    assert all(
        each.closed == (each.sink in ("kafka", "dead_letters")) or each.missing == each.surplus for each in report.sums
    )


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("raw_payload", "{}"),
        ("user_id", None),
        ("duration_ms", 1),
        ("engagement_percentage", 51.0),
        ("engagement_seconds", None),
        ("anomalies", ["over_length"]),
        ("kafka_offset", 1234),
        ("kafka_partition", 7),
        ("event_type", "click"),
    ],
)
def test_any_altered_column_of_bigquery_is_found(sinks, column, value):
    sinks.bigquery.held[5][column] = value
    assert found(sinks.audit()) == {("bigquery", "altered"): [sinks.bigquery.held[5]["event_id"]]}


def test_an_altered_event_time_is_found(sinks):
    sinks.bigquery.held[5]["event_ts"] += timedelta(microseconds=1)
    assert found(sinks.audit()) == {("bigquery", "altered"): [sinks.bigquery.held[5]["event_id"]]}


def test_a_content_that_changed_since_is_stale_and_no_error(full):
    with psycopg.connect(full.postgres) as connection:
        connection.execute("UPDATE content SET title = 'Another' WHERE id = %s", [CONTENT])
    report = full.audit()
    assert report.clean
    assert len(found(report)["bigquery", "stale"]) == 20


def test_rows_that_the_capture_lost_doubled_or_altered_are_named(place):
    ids = place.insert(6)
    place.capture([*ids[1:], ids[3]])
    place.deliver()
    with psycopg.connect(place.postgres) as connection:
        connection.execute("UPDATE engagement_events SET device = 'x' WHERE id = %s", [ids[4]])
    report = place.audit()
    assert found(report) == {
        ("kafka", "missing"): [str(ids[0])],
        ("kafka", "doubled"): [str(ids[3])],
        ("kafka", "altered"): [str(ids[4])],
    }


def test_a_record_without_row_between_the_rows_is_unexpected_and_others_are_from_elsewhere(place):
    ids = place.insert(4)
    place.capture(ids)
    event = {"content_id": CONTENT, "event_type": "play", "event_ts": place.moment.isoformat()}
    place.produce([(None, json.dumps({**event, **more}).encode()) for more in ({"id": 10**9}, {"id": "abc"}, {})])
    place.deliver()
    report = place.audit()
    assert report.clean, report
    assert found(report)["kafka", "from elsewhere"] == ["1000000000", "abc", f"kafka:{place.topic}-0-4"]
    with psycopg.connect(place.postgres) as connection:
        connection.execute("DELETE FROM engagement_events WHERE id = %s", [ids[1]])
    assert found(place.audit())["kafka", "unexpected"] == [str(ids[1])]


def test_poison_has_one_dead_letter(place):
    good = place.insert(3)
    bad = place.insert(2, device="x" * 100) + place.insert(1, event_ts=place.moment + timedelta(days=3650))
    place.capture(good + bad)
    place.produce([(None, b"hello")])
    place.deliver()
    report = place.audit()
    assert report.clean, found(report)
    sums = {each.sink: each for each in report.sums}
    assert (sums["bigquery"].records, sums["bigquery"].delivered, sums["bigquery"].rejected) == (7, 3, 4)
    assert sums["dead_letters"].records == 4


def test_a_rejected_record_without_letter_or_with_two_is_named(place):
    place.capture(place.insert(4, device="x" * 100))
    place.deliver(letters=False)
    value = b"another"
    place.letter(0, 0, value, "parse")
    place.letter(0, 1, value, "parse")
    place.letter(0, 1, value, "parse")
    report = place.audit()
    assert found(report) == {
        ("dead_letters", "missing"): ["1/0", "1/1"],
        ("dead_letters", "doubled"): ["0/1"],
        ("dead_letters", "altered"): ["0/0", "0/1", "0/1"],
    }


def test_a_refused_event_is_accounted_for_in_that_sink_alone(full):
    row = full.bigquery.held.pop()
    where = int(row["kafka_partition"]), int(row["kafka_offset"])
    full.letter(*where, b"", "bigquery", row["event_id"])
    report = full.audit()
    assert report.clean, found(report)
    sums = {each.sink: each for each in report.sums}
    assert (sums["bigquery"].refused, sums["partner"].refused) == (1, 0)
    full.bigquery.held.append(row)
    assert found(full.audit()) == {("bigquery", "there, but not to be"): [row["event_id"]]}


def test_what_lies_behind_a_position_is_not_yet_due(full):
    full.capture(more := full.insert(5))
    report = full.audit()
    assert report.clean, found(report)
    assert [each.not_due for each in report.sums] == [0, 5, 5, 0]
    full.settle()
    assert found(full.audit())["bigquery", "missing"] == [str(each) for each in more]


def test_rows_that_the_capture_has_not_reached_are_not_yet_due(full):
    with psycopg.connect(full.postgres, autocommit=True) as connection:
        connection.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [full.group])
    full.insert(3)
    report = full.audit()
    assert report.clean, found(report)
    assert report.sums[0].not_due == 3
    assert "bytes of log behind" in report.notes[0]


def test_only_the_range_is_judged(full):
    old = full.insert(3, event_ts=full.moment - timedelta(hours=5))
    full.capture(old)
    full.settle()
    report = full.audit(begin=full.moment - timedelta(minutes=5), end=full.moment + timedelta(minutes=5))
    assert report.clean, found(report)
    assert [each.records for each in report.sums] == [20, 20, 20, 0]
    assert found(full.audit(begin=full.moment - timedelta(hours=6)))["bigquery", "missing"] == list(map(str, old))


def test_a_replayed_event_is_expected_at_its_own_sink_alone(full):
    row = full.bigquery.held.pop()
    full.letter(int(row["kafka_partition"]), int(row["kafka_offset"]), b"", "bigquery", row["event_id"])
    full.capture(
        [int(row["event_id"])],
        **{"for": "bigquery", "event_id": row["event_id"], "kafka_timestamp": str(int(full.moment.timestamp() * 1000))},
    )
    report = full.audit()
    assert report.clean, found(report)
    full.settle()
    assert found(full.audit()) == {("bigquery", "missing"): [row["event_id"]]}


def test_ids_alone_show_what_is_missing_and_doubled(sinks):
    ids = [str(each) for each in sinks.ids]
    sinks.partner = [each.encode() for each in [*ids[1:], ids[2]]]
    assert found(sinks.audit()) == {("partner", "missing"): [ids[0]], ("partner", "doubled"): [ids[2]]}


def test_without_the_partners_ids_its_position_is_believed(sinks):
    sinks.partner.clear()
    report = sinks.audit(partner_ids=None)
    assert report.clean
    assert "--partner-ids" in report.notes[-1]


def test_ids_of_events_outside_the_range_are_not_judged(full):
    """An export of all ids, and a range: an id alone does not say when its event was."""
    old = full.insert(3, event_ts=full.moment - timedelta(hours=5))
    full.capture(old)
    full.settle()
    full.partner = [str(each).encode() for each in [*full.ids, *old]]
    report = full.audit(begin=full.moment - timedelta(minutes=5), sinks=("partner",))
    assert report.clean, report.sums
    unread = full.moment + timedelta(hours=1)
    assert full.audit(begin=unread, sinks=("partner",)).clean
    full.partner.append(b"never-in-the-topic")
    assert full.audit(begin=unread, sinks=("partner",)).clean
    assert found(full.audit(sinks=("partner",))) == {("partner", "unexpected"): ["never-in-the-topic"]}


def test_what_came_while_it_was_looking_is_not_judged(full, monkeypatch):
    """Rows and letters of records that came to Kafka after the audit had read it."""
    read_letters = Audit._letters

    def meanwhile(audit, folder):
        full.capture([*full.insert(4), *full.insert(2, device="x" * 100)])
        full.bigquery.held.clear()
        full.deliver(("bigquery", "dead_letters"))
        return read_letters(audit, folder)

    monkeypatch.setattr(Audit, "_letters", meanwhile)
    report = full.audit()
    assert report.clean, found(report)
    assert {each.sink: each.records for each in report.sums} == {
        "kafka": 20,
        "bigquery": 20,
        "partner": 20,
        "dead_letters": 0,
    }


def test_a_slot_that_the_server_gave_up_hides_no_missing_row(full, monkeypatch):
    """Nobody will ever send them by it."""
    with psycopg.connect(full.postgres, autocommit=True) as connection:
        connection.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [full.group])
        connection.execute(
            "CREATE SCHEMA lost CREATE VIEW pg_replication_slots AS SELECT slot_name, confirmed_flush_lsn, "
            "'lost'::text AS wal_status FROM pg_catalog.pg_replication_slots"
        )
    missing = full.insert(3)
    assert full.audit().clean
    monkeypatch.setattr(full, "postgres", f"{full.postgres}?options=-csearch_path%3Dpublic,lost,pg_catalog")
    assert found(full.audit()) == {("kafka", "missing"): [str(each) for each in missing]}


def test_a_sink_whose_position_is_lost_is_not_called_clean(place):
    """From the beginning on nothing would be due."""
    place.capture(place.insert(2))
    place.deliver(("partner",))
    with pytest.raises(CouldNotLook, match=r"sink bigquery has no position in partitions \[0, 1\] of .*provision"):
        place.audit(sinks=("partner", "bigquery"))
    assert place.audit(sinks=("partner",)).clean


@pytest.mark.parametrize("partitions", [[0], [0, 1]])
def test_rows_of_a_topic_that_retention_has_emptied_are_compared_with_the_sinks(full, partitions):
    """No record is left that says how far retention has come: a repair would send every row again."""
    ends = topic.EventsTopic(full.kafka.properties, full.topic).ends()
    removed = full.kafka.admin.delete_records([TopicPartition(full.topic, each, ends[each]) for each in partitions])
    for each in removed.values():
        each.result(20)
    report = full.audit()
    assert report.clean, found(report)
    assert full.repair() == []
    lost = next(row for row in full.bigquery.held if row["kafka_partition"] == 0)
    full.bigquery.held.remove(lost)
    assert found(full.audit()) == {("bigquery", "missing"): [lost["event_id"]]}


@pytest.mark.parametrize("phase", ["creating", "snapshot"])
def test_rows_of_the_captures_snapshot_are_not_yet_due(full, phase, wait_for):
    """They come behind the slot, which has nothing more to send; a repair would send them twice."""
    full.insert(3)

    def with_a_new_slot():
        """Other tests write to the same server, and nobody moves this slot on."""
        with psycopg.connect(full.postgres, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s",
                [full.group],
            )
            connection.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [full.group])
        return found(full.audit()) == {("kafka", "missing"): ["21", "22", "23"]}

    wait_for(with_a_new_slot, timeout=60, message="an audit right behind the slot")
    position = {"system": "1", "timeline": 1, "database": "d", "phase": phase}
    stored = {"topic": full.topic, "topic_id": full.kafka.topic_id(full.topic), "position": position}
    producer = Producer(full.kafka.properties)
    producer.produce(full.positions, json.dumps(stored), capture_key(full.group))
    assert producer.flush(10) == 0
    report = full.audit()
    assert report.clean, found(report)
    assert report.sums[0].not_due == 3
    assert full.repair() == []


def test_a_bigquery_that_is_away_is_said_soon(monkeypatch):
    """Its client would try for ten minutes."""
    monkeypatch.setattr(bigquery, "_RETRY", bigquery._RETRY.with_timeout(0.5))
    table = bigquery.TableRows(BigQueryTable("project", "data", "events", "127.0.0.1:1", "127.0.0.1:1"))
    with pytest.raises(CouldNotLook, match="Could not look into BigQuery: "), looking_at("BigQuery"):
        list(table.rows(0, 1))
    with pytest.raises(CouldNotLook, match="Could not look into BigQuery: "), looking_at("BigQuery"):
        table._run("SELECT 1", [])


def test_a_repair_does_not_wait_for_a_kafka_that_is_away(place, monkeypatch):
    monkeypatch.setattr(topic, "ANSWER_S", 0.5)
    with pytest.raises(CouldNotLook, match="Could not look into Kafka: "):
        Repair(place.settings(KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")).open()
