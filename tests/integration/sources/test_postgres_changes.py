"""The source of the capture against a real PostgreSQL: values, order, snapshot and stream, and what stops a start."""

import json
from typing import Any

import psycopg
import pytest

from sources import change_stream, postgres_changes
from sources.change_position import RECAPTURE
from sources.positions import FlowStopped
from tests.conftest import poll
from tests.fakes.capture import CONTENT, create_tables, ids_in_table, insert
from tests.fakes.ledger import Abandoned, Crash, MemoryLedger, deliver, deliver_until, part, source

USER = "0b5d5b5e-1111-4222-8333-444455556666"
COLUMNS = "content_id, user_id, event_type, event_ts, duration_ms, device, raw_payload"


@pytest.fixture
def dsn(postgres: str) -> str:
    create_tables(postgres)
    return postgres


@pytest.fixture
def ledger() -> MemoryLedger:
    return MemoryLedger()


def execute(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def drop_slot(dsn: str, slot: str) -> None:
    """Once the server has noticed that who used it is gone."""

    def dropped() -> bool:
        try:
            execute(dsn, f"SELECT pg_drop_replication_slot('{slot}')")
        except psycopg.errors.ObjectInUse:
            return False
        return True

    poll(dropped, message=f"slot {slot} to be free")


def streaming(ledger: MemoryLedger) -> bool:
    return ledger.position.get("phase") == "stream"


ROWS = [
    f"('{CONTENT}', '{USER}', 'pause', '2025-08-10 14:30:25.123456+00', 900000, 'mobile', "
    """'{"b": [1.50, null], "a": "é \\" ", "n": 12345678901234567890123}')""",
    "(NULL, NULL, NULL, '2025-08-10 16:30:25+02', NULL, NULL, NULL)",
    f"('{CONTENT}', '{USER}', 'click', '0099-01-01 00:00:00.5+00', -2147483648, E'tab\\tquote\"', '\"text\"')",
    f"('{CONTENT}', '{USER}', 'play', 'infinity', 2147483647, '', 'null')",
]


def test_every_type_of_the_table_reads_the_same_from_snapshot_and_stream(
    dsn: str, unique: str, ledger: MemoryLedger
) -> None:
    inserts = [f"INSERT INTO engagement_events ({COLUMNS}) VALUES {row}" for row in ROWS]
    execute(dsn, *inserts)
    with part(dsn, unique, ledger) as it:
        deliver_until(it, ledger, lambda: streaming(ledger))
        deliver(it, ledger)
        execute(dsn, *inserts)
        deliver_until(it, ledger, lambda: len(ledger.records) >= 8)
    assert ledger.ids == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [key for key, _ in ledger.records[:4]] == [CONTENT.encode(), None, CONTENT.encode(), CONTENT.encode()]
    first = ledger.records[0][1].decode()
    assert first == (
        f'{{"id":1,"content_id":"{CONTENT}","user_id":"{USER}","event_type":"pause",'
        '"event_ts":"2025-08-10T14:30:25.123456Z","duration_ms":900000,"device":"mobile",'
        '"raw_payload":{"a": "é \\" ", "b": [1.50, null], "n": 12345678901234567890123}}'
    )
    assert ledger.rows[1] == dict.fromkeys(ledger.rows[0]) | {"id": 2, "event_ts": "2025-08-10T14:30:25.000000Z"}
    assert ledger.rows[2]["device"] == 'tab\tquote"'
    assert ledger.rows[2]["raw_payload"] == "text"
    assert ledger.rows[3]["event_ts"] == "infinity"
    for (key, snapshot), (other_key, stream) in zip(ledger.records[:4], ledger.records[4:], strict=True):
        assert key == other_key
        assert json.loads(snapshot) | {"id": 0} == json.loads(stream) | {"id": 0}
        assert snapshot.partition(b",")[2] == stream.partition(b",")[2]  # byte for byte


def test_only_committed_inserts_of_the_table_come_in_commit_order(dsn: str, unique: str, ledger: MemoryLedger) -> None:
    with part(dsn, unique, ledger) as it:
        deliver_until(it, ledger, lambda: streaming(ledger))
        execute(dsn, "ALTER PUBLICATION engagement ADD TABLE content")
        execute(dsn, "ALTER PUBLICATION engagement SET (publish = 'insert, update, delete, truncate')")
        one = f"INSERT INTO engagement_events ({COLUMNS}) VALUES {ROWS[0]}"
        with psycopg.connect(dsn) as early, psycopg.connect(dsn) as late:
            early.execute(one.encode())  # id 1
            late.execute(one.encode())  # id 2
            with late.transaction(force_rollback=True):
                late.execute(one.encode())  # id 3
            late.execute(one.encode())  # id 4
            late.commit()
            early.commit()
        execute(
            dsn,
            "UPDATE content SET title = 'x' WHERE slug = 'the-morning-stream'",
            "ALTER TABLE engagement_events ALTER raw_payload SET STORAGE EXTERNAL",
            "INSERT INTO engagement_events (event_ts, raw_payload) SELECT now(), to_jsonb(repeat('x', 100000))",
            "UPDATE engagement_events SET duration_ms = 1 WHERE id = 5",  # its payload is an unchanged TOAST value
            "DELETE FROM engagement_events WHERE id = 1",
            "INSERT INTO content VALUES (gen_random_uuid(), 'new', 'New', 'video', 1, now())",
            "TRUNCATE engagement_events",
            one,
        )
        deliver_until(it, ledger, lambda: 6 in ledger.ids)
    assert ledger.ids == [2, 4, 1, 5, 6]
    assert len(ledger.rows[3]["raw_payload"]) == 100_000


def test_a_new_column_is_in_the_rows_behind_it(dsn: str, unique: str, ledger: MemoryLedger) -> None:
    with part(dsn, unique, ledger) as it:
        deliver_until(it, ledger, lambda: streaming(ledger))
        insert(dsn, 1)
        execute(dsn, "ALTER TABLE engagement_events ADD COLUMN app text DEFAULT 'web'")
        insert(dsn, 1)
        deliver_until(it, ledger, lambda: len(ledger.records) == 2)
    assert "app" not in ledger.rows[0]
    assert ledger.rows[1]["app"] == "web"


def test_rows_that_commit_around_the_snapshot_come_once(
    dsn: str, unique: str, ledger: MemoryLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_changes, "SNAPSHOT_PAGE_ROWS", 10)
    insert(dsn, 35)
    with part(dsn, unique, ledger) as it, psycopg.connect(dsn) as late:
        late.execute(b"INSERT INTO engagement_events (event_ts) VALUES (now())")  # a low id that commits late
        deliver(it, ledger)
        insert(dsn, 5)
        late.commit()
        deliver_until(it, ledger, lambda: len(ledger.records) >= 41)
        deliver(it, ledger)
    assert sorted(ledger.ids) == ids_in_table(dsn)
    assert ledger.ids[:35] == sorted(ledger.ids[:35])


def test_a_snapshot_whose_connection_ends_goes_on_without_gap_or_double(
    dsn: str, unique: str, ledger: MemoryLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also rows whose ids lie below and above the last one sent, and which commit between both snapshots."""
    monkeypatch.setattr(postgres_changes, "SNAPSHOT_PAGE_ROWS", 10)
    execute(dsn, "INSERT INTO engagement_events (id, event_ts) SELECT n * 10, now() FROM generate_series(1, 30) n")
    with part(dsn, unique, ledger) as it:
        deliver(it, ledger)
        deliver(it, ledger)
        assert ledger.position["after"] == 200
        kill_backends = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'engagement-capture'"
        )
        for low, high in ((15, 215), (16, 216)):
            execute(
                dsn,
                f"INSERT INTO engagement_events (id, event_ts) VALUES ({low}, now()), ({high}, now())",
                f"BEGIN; SAVEPOINT s; INSERT INTO engagement_events (id, event_ts) VALUES ({high + 30}, now());"
                "RELEASE s; COMMIT",
                f"UPDATE engagement_events SET device = 'changed' WHERE id in (210, {high})",
                f"{kill_backends} AND datname = current_database()",
            )
            deliver(it, ledger)
        execute(dsn, "INSERT INTO engagement_events (id, event_ts) VALUES (17, now()), (217, now())")
        deliver_until(it, ledger, lambda: {17, 217} <= set(ledger.ids))
    assert sorted(ledger.ids) == ids_in_table(dsn)


def test_a_crash_before_or_after_any_write_leaves_neither_gap_nor_double(
    dsn: str, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every write of a run through snapshot and stream, large transactions cut: crashed before and after each."""
    monkeypatch.setattr(postgres_changes, "SNAPSHOT_PAGE_ROWS", 10)
    monkeypatch.setattr(change_stream, "GROUP_ROWS_MAX", 15)
    crashes = 0
    for stored in (False, True):
        for at in range(12):
            ledger = MemoryLedger(crash_at=(at, stored))
            slot = f"{unique}_{int(stored)}_{at}"
            execute(dsn, "TRUNCATE engagement_events")
            insert(dsn, 25)
            try:
                with part(dsn, slot, ledger) as it:
                    deliver_until(it, ledger, lambda ledger=ledger: streaming(ledger))
                    insert(dsn, 50)
                    insert(dsn, 3, transactions=2)
                    deliver_until(it, ledger, lambda ledger=ledger: len(ledger.records) >= 81)
            except Crash:
                crashes += 1
            ledger.crash_at = None
            insert(dsn, 20)
            with part(dsn, slot, ledger) as it:
                deliver_until(it, ledger, lambda ledger=ledger: len(ledger.records) >= len(ids_in_table(dsn)))
                deliver(it, ledger)
            assert sorted(ledger.ids) == ids_in_table(dsn), (at, stored)
            drop_slot(dsn, slot)
    assert crashes >= 18


def test_the_server_may_forget_only_what_the_ledger_has_acknowledged(
    dsn: str, unique: str, ledger: MemoryLedger, wait_for: Any
) -> None:
    with part(dsn, unique, ledger) as it:
        deliver_until(it, ledger, lambda: streaming(ledger))
        deliver(it, ledger)
        before = confirmed(dsn, unique)
        insert(dsn, 10)
        changes: list[Any] = []
        wait_for(lambda: changes.extend(it.next_batch()) or changes)
        assert it.next_batch() == []  # what was handed on is not acknowledged yet
        assert confirmed(dsn, unique) == before
        ledger.write(changes[0].records, changes[0].position)
        wait_for(lambda: deliver(it, ledger) or confirmed(dsn, unique) != before)
        assert confirmed(dsn, unique) == ledger.position["lsn"]


def test_an_idle_table_lets_the_server_forget_what_others_write(
    dsn: str, unique: str, ledger: MemoryLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change_stream, "IDLE_POSITION_EVERY_S", 0.1)
    with part(dsn, unique, ledger) as it:
        deliver_until(it, ledger, lambda: streaming(ledger))
        deliver(it, ledger)
        execute(dsn, "CREATE TABLE other AS SELECT n FROM generate_series(1, 10000) n")
        with psycopg.connect(dsn) as connection:
            written = connection.execute("SELECT pg_current_wal_lsn()::text").fetchone()
        assert written is not None

        def forgotten() -> bool:
            query = "SELECT confirmed_flush_lsn >= %s::text::pg_lsn FROM pg_replication_slots WHERE slot_name = %s"
            with psycopg.connect(dsn) as connection:
                return bool((connection.execute(query, [written[0], unique]).fetchone() or [False])[0])

        deliver_until(it, ledger, forgotten)


def confirmed(dsn: str, slot: str) -> str:
    with psycopg.connect(dsn) as connection:
        query = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s"
        row = connection.execute(query, [slot]).fetchone()
    assert row is not None
    return str(row[0])


# What stops a start


def refused(dsn: str, slot: str, ledger: MemoryLedger) -> str:
    with pytest.raises(FlowStopped) as stopped, part(dsn, slot, ledger):
        pass
    return str(stopped.value)


def captured_once(dsn: str, slot: str, ledger: MemoryLedger) -> None:
    with part(dsn, slot, ledger) as it:
        deliver_until(it, ledger, lambda: streaming(ledger))
        deliver(it, ledger)


def test_a_missing_publication_or_table_names_provision(dsn: str, unique: str, ledger: MemoryLedger) -> None:
    execute(dsn, "ALTER PUBLICATION engagement DROP TABLE engagement_events")
    assert "does not publish the inserts of public.engagement_events" in refused(dsn, unique, ledger)
    execute(dsn, "DROP PUBLICATION engagement")
    told = refused(dsn, unique, ledger)
    assert "Publication engagement of PostgreSQL does not exist" in told
    assert "python -m operations.provision" in told
    assert ledger.writes == 0


def test_a_slot_without_a_position_is_not_taken(dsn: str, unique: str, ledger: MemoryLedger) -> None:
    execute(dsn, f"SELECT pg_create_logical_replication_slot('{unique}', 'pgoutput')")
    assert "public.engagement_events has no rows." in refused(dsn, unique, ledger)
    insert(dsn, 3)
    told = refused(dsn, unique, ledger)
    assert "Kafka holds no position" in told
    assert "Rows of public.engagement_events that may be missing: 3, ids 1 to 3." in told


def test_a_slot_of_another_plugin_is_not_taken(dsn: str, unique: str, ledger: MemoryLedger) -> None:
    captured_once(dsn, unique, ledger)
    drop_slot(dsn, unique)
    execute(dsn, f"SELECT pg_create_physical_replication_slot('{unique}')")
    assert "set CDC_SLOT to a name of its own" in refused(dsn, unique, ledger)


def test_a_slot_that_is_gone_stops_the_flow_and_names_the_rows(dsn: str, unique: str, ledger: MemoryLedger) -> None:
    insert(dsn, 5)
    captured_once(dsn, unique, ledger)
    drop_slot(dsn, unique)
    told = refused(dsn, unique, ledger)
    assert "is gone" in told
    assert "No row of public.engagement_events has an id beyond 5" in told
    assert RECAPTURE in told
    insert(dsn, 7)
    assert "may be missing: 7, ids 6 to 12, beyond 5, the highest that was sent" in refused(dsn, unique, ledger)


def test_a_slot_that_was_recreated_stops_the_flow_and_names_the_rows(
    dsn: str, unique: str, ledger: MemoryLedger
) -> None:
    with part(dsn, unique, ledger) as it:
        deliver_until(it, ledger, lambda: streaming(ledger))
        insert(dsn, 4)
        deliver_until(it, ledger, lambda: len(ledger.records) == 4)
    drop_slot(dsn, unique)
    insert(dsn, 10)
    execute(dsn, f"SELECT pg_create_logical_replication_slot('{unique}', 'pgoutput')")
    told = refused(dsn, unique, ledger)
    assert "has moved past the capture's position" in told
    assert "may be missing: 10, ids 5 to 14, beyond 4" in told


def test_an_older_copy_of_the_server_stops_the_flow(dsn: str, unique: str, ledger: MemoryLedger) -> None:
    captured_once(dsn, unique, ledger)
    ledger.acknowledged = json.dumps(ledger.position | {"lsn": "FFFF/0"}).encode()
    told = refused(dsn, unique, ledger)
    assert "an older copy of it was put in its place" in told
    assert RECAPTURE in told


@pytest.mark.parametrize("field", ["system", "timeline", "database"])
def test_another_server_stops_the_flow(dsn: str, unique: str, ledger: MemoryLedger, field: str) -> None:
    captured_once(dsn, unique, ledger)
    other = ledger.position
    other[field] = 99 if field == "timeline" else "other"
    ledger.acknowledged = json.dumps(other).encode()
    assert "another server, a restored copy or a failover" in refused(dsn, unique, ledger)


def test_a_first_start_into_a_topic_that_holds_rows_of_the_table_is_refused(
    dsn: str, unique: str, ledger: MemoryLedger
) -> None:
    insert(dsn, 20)
    ledger.records = [(None, b'{"id":%d}' % number) for number in (3, 4, 9)]
    told = refused(dsn, unique, ledger)
    assert "its topic holds 3 ids, 3 to 9, and the table 7 rows from 3 to 9" in told
    ledger.recapture()
    with part(dsn, unique, ledger) as it:
        deliver_until(it, ledger, lambda: streaming(ledger))
    assert sorted(ledger.ids) == ids_in_table(dsn)


def test_a_first_start_into_a_topic_of_others_sends_every_row(dsn: str, unique: str, ledger: MemoryLedger) -> None:
    insert(dsn, 20)
    ledger.records = [(None, b'{"id":%d}' % number) for number in (1000, 2000)]
    with part(dsn, unique, ledger) as it:
        deliver_until(it, ledger, lambda: streaming(ledger))
    assert sorted(ledger.ids) == [*ids_in_table(dsn), 1000, 2000]


# Captured again: exactly what the topic lacks


def test_captured_again_rows_that_were_missed_come_once(dsn: str, unique: str, ledger: MemoryLedger) -> None:
    """Also a row with a low id that committed late, and rows that commit while it is captured again."""
    insert(dsn, 20)
    with part(dsn, unique, ledger) as it, psycopg.connect(dsn) as late:
        deliver_until(it, ledger, lambda: streaming(ledger))
        deliver(it, ledger)
        late.execute(b"INSERT INTO engagement_events (event_ts) VALUES (now())")  # id 21
        insert(dsn, 10)
        deliver_until(it, ledger, lambda: len(ledger.records) == 30)
        it.close()
        drop_slot(dsn, unique)
    insert(dsn, 10)
    assert "may be missing: 10, ids 32 to 41, beyond 31" in refused(dsn, unique, ledger)
    ledger.recapture()
    before = len(ledger.records)
    with part(dsn, unique, ledger) as it:
        insert(dsn, 5)
        deliver_until(it, ledger, lambda: len(ledger.records) == 46)
        deliver(it, ledger)
    assert ledger.ids[before:] == [21, *range(32, 47)]
    assert sorted(ledger.ids) == ids_in_table(dsn)
    assert "again" not in ledger.position


def test_a_crash_anywhere_while_captured_again_leaves_neither_gap_nor_double(
    dsn: str, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_changes, "SNAPSHOT_PAGE_ROWS", 10)
    crashes = 0
    for stored in (False, True):
        for at in range(9):
            ledger = MemoryLedger()
            slot = f"{unique}_{int(stored)}_{at}"
            execute(dsn, "TRUNCATE engagement_events RESTART IDENTITY")
            insert(dsn, 25)
            captured_once(dsn, slot, ledger)
            drop_slot(dsn, slot)
            insert(dsn, 25)
            ledger.recapture()
            ledger.crash_at = (ledger.writes + at, stored)
            try:
                with part(dsn, slot, ledger) as it:
                    insert(dsn, 5)
                    deliver_until(it, ledger, lambda ledger=ledger: len(ledger.records) >= 55)
            except Crash:
                crashes += 1
            ledger.crash_at = None
            insert(dsn, 5)
            with part(dsn, slot, ledger) as it:
                deliver_until(it, ledger, lambda ledger=ledger: len(ledger.records) >= len(ids_in_table(dsn)))
                deliver(it, ledger)
            assert sorted(ledger.ids) == ids_in_table(dsn), (at, stored)
            drop_slot(dsn, slot)
    assert crashes >= 16


def test_captured_again_on_another_server_goes_on_with_what_the_topic_lacks(
    dsn: str, postgres_server: Any, unique: str, ledger: MemoryLedger
) -> None:
    """As after a restore into a new cluster: other system identifier, the same rows and a few more."""
    insert(dsn, 30)
    captured_once(dsn, unique, ledger)
    create_tables(postgres_server.dsn)
    insert(postgres_server.dsn, 40)
    told = refused(postgres_server.dsn, unique, ledger)
    assert "another server, a restored copy or a failover" in told
    assert "may be missing: 10, ids 31 to 40" in told
    ledger.recapture()
    with part(postgres_server.dsn, unique, ledger) as it:
        deliver_until(it, ledger, lambda: streaming(ledger))
        insert(postgres_server.dsn, 5)
        deliver_until(it, ledger, lambda: len(ledger.records) == 45)
    assert sorted(ledger.ids) == list(range(1, 46))


def test_captured_again_after_a_promotion_nothing_is_missing_and_nothing_doubled(
    postgres_server: Any, unique: str, ledger: MemoryLedger, wait_for: Any
) -> None:
    """The same rows under another timeline, as a standby that was promoted has them."""
    dsn = postgres_server.dsn
    create_tables(dsn)
    insert(dsn, 30)
    captured_once(dsn, unique, ledger)
    insert(dsn, 5)
    postgres_server.stop()
    (postgres_server.data_dir / "standby.signal").touch()
    postgres_server.start()
    execute(dsn, "SELECT pg_promote()")
    insert(dsn, 5)
    told = refused(dsn, unique, ledger)
    assert "timeline 1, database postgres, but this server is" in told
    assert "timeline 2" in told
    assert "may be missing: 10, ids 31 to 40" in told
    ledger.recapture()
    with part(dsn, unique, ledger) as it:
        deliver_until(it, ledger, lambda: streaming(ledger))
        insert(dsn, 5)
        deliver_until(it, ledger, lambda: len(ledger.records) == 45)
    assert sorted(ledger.ids) == list(range(1, 46))


def test_captured_again_what_retention_has_removed_counts_as_sent(dsn: str, unique: str, ledger: MemoryLedger) -> None:
    insert(dsn, 50)
    captured_once(dsn, unique, ledger)
    insert(dsn, 10)
    ledger.records, ledger.sent_up_to = ledger.records[20:], 30
    ledger.recapture()
    with part(dsn, unique, ledger) as it:
        deliver_until(it, ledger, lambda: streaming(ledger))
    assert ledger.ids == list(range(21, 61))


def test_captured_again_an_emptied_topic_goes_by_the_highest_id(dsn: str, unique: str, ledger: MemoryLedger) -> None:
    insert(dsn, 50)
    captured_once(dsn, unique, ledger)
    insert(dsn, 10)
    ledger.records, ledger.emptied = [], True
    ledger.recapture()
    with part(dsn, unique, ledger) as it:
        deliver_until(it, ledger, lambda: streaming(ledger))
    assert ledger.ids == list(range(51, 61))
    lost = MemoryLedger(emptied=True)
    lost.recapture()
    assert "nobody knows which rows were sent" in refused(dsn, unique, lost)


def test_a_lost_slot_stops_the_flow(postgres_server: Any, unique: str, ledger: MemoryLedger, wait_for: Any) -> None:
    dsn = postgres_server.dsn
    create_tables(dsn)
    captured_once(dsn, unique, ledger)
    execute(dsn, "ALTER SYSTEM SET idle_replication_slot_timeout = '1s'", "SELECT pg_reload_conf()")

    def lost() -> bool:
        execute(dsn, "CHECKPOINT")
        with psycopg.connect(dsn) as connection:
            row = connection.execute("SELECT wal_status FROM pg_replication_slots").fetchone()
        return row == ("lost",)

    wait_for(lost)
    told = refused(dsn, unique, ledger)
    assert "was given up by the server" in told
    assert "max_slot_wal_keep_size" in told


def test_a_server_that_is_away_is_waited_for_and_a_stop_is_heeded(unique: str, ledger: MemoryLedger) -> None:
    waiting = source("postgresql://postgres@127.0.0.1:1/postgres", unique, ledger)
    waiting.stopping.asked = True  # type: ignore[attr-defined]
    with pytest.raises(Abandoned):
        waiting.build_part("step", unique, None)


def test_a_restarted_server_is_read_on(postgres_server: Any, unique: str, ledger: MemoryLedger) -> None:
    create_tables(postgres_server.dsn)
    with part(postgres_server.dsn, unique, ledger) as it:
        deliver_until(it, ledger, lambda: streaming(ledger))
        insert(postgres_server.dsn, 10)
        deliver_until(it, ledger, lambda: len(ledger.records) == 10)
        postgres_server.kill()
        postgres_server.start()
        insert(postgres_server.dsn, 10)
        deliver_until(it, ledger, lambda: len(ledger.records) == 20)
    assert sorted(ledger.ids) == ids_in_table(postgres_server.dsn)
