"""The Redis sink on a real server: absolute totals once, one owner, no lost write unnoticed, no wait without a word."""

import shutil
import threading
from collections.abc import Callable
from typing import Any

import pytest
import redis

import sinks.redis_client
from engagement.content_rows import shard_of, user_shard_of
from engagement.totals_update import Update
from sinks.redis import RedisSink
from sources.positions import Claim, Fenced, FlowStopped, LostWrites, PartitionId, PositionGap, Span
from tests.integration.sinks.redis_totals import SOME, Process, everything, keys_of, make_sink
from tests.unit.engagement.totals_batches import CONTENTS, IDS, NOON_MS, PARTITION, Record, count

MINUTE = 60_000
# Late, early, out of order, several minutes and windows, with users: what a crash could spoil.
STREAM = [
    Record(
        event_ms=i * 17_000 - (i % 5) * 4 * MINUTE,
        kafka_ms=i * 17_000,
        content=[*IDS, "unknown", None][i % 6],
        type=["play", "pause", "finish", "click"][i % 4],
        duration_ms=None if i % 7 == 0 else i * 1234,
        user=f"u{i % 11}",
    )
    for i in range(120)
]


@pytest.fixture
def sink(redis_url: str, unique: str) -> RedisSink:
    return make_sink(redis_url, unique)


def test_redis_holds_the_totals_counted_one_by_one(sink: RedisSink, redis_url: str, unique: str) -> None:
    process = Process(sink, "a")
    assert process.claim == Claim(None)
    for start in range(0, len(STREAM), 7):
        process.take(STREAM[start : start + 7], start)
    expected, keys = count(STREAM), keys_of(unique).partition(PARTITION.partition)
    held, users = everything(redis_url, unique), {}
    for (kind, start_s, content_id), row in expected.stored.items():
        stored = held[keys.totals(kind, start_s)][content_id.encode()]
        assert stored == b"".join(number.to_bytes(8, "little") for number in row)
        assert (content_id.encode(), float(row[8])) in held[keys.scores(kind, start_s)]
    buckets = {name: fields for name, fields in held.items() if name.split(":")[-2] in ("minute", "stragglers10")}
    assert {(name, member.decode()) for name, fields in buckets.items() for member in fields if member} == {
        (keys.totals(kind, start_s), content_id) for kind, start_s, content_id in expected.stored
    }
    for (kind, start_s, content_id), found in expected.users.items():
        users[keys.crowded_users(kind, start_s, content_id)] = len(found)
    assert {name: value for name, value in held.items() if ":users:" in name} == users
    together: dict[str, set[int]] = {}
    for (kind, start_s, _), found in expected.users.items():
        together.setdefault(keys.everybody(kind, start_s), set()).update(found)
    assert {name: value for name, value in held.items() if name.endswith(":everybody")} == {
        name: len(found) for name, found in together.items()
    }
    position = held[keys.position]
    assert position[b"next"] == b"120"
    assert position[b"topic_id"] == PARTITION.topic_id.encode()
    assert int(position[b"total_late"]) == sum(expected.late.values())
    assert held[keys_of(unique).partitions] == {b"0"}


def test_a_claim_tells_what_redis_needs_next(sink: RedisSink) -> None:
    Process(sink, "a").take(SOME, 0)
    assert sink.claim(PARTITION, "b") == Claim(6, newest_ms=NOON_MS + 5000)


def test_every_key_expires_but_the_position(sink: RedisSink, redis_url: str, unique: str) -> None:
    process = Process(sink, "a")
    updates = process.updates(SOME, 0)
    updates[0].contents = CONTENTS.stored([1])
    process.write(updates)
    client = redis.Redis.from_url(redis_url)
    lasting = {key.decode() for key in client.scan_iter(match=f"{{{unique}/*") if client.ttl(key) == -1}
    keys = keys_of(unique).partition(0)
    assert lasting == {keys.position}
    assert client.ttl(keys.contents) > 86_400
    assert client.ttl(keys.totals("minute", NOON_MS // 1000)) > 4700
    assert client.ttl(keys.recent(NOON_MS // 1000, shard_of(IDS[0]))) > 4700
    assert client.ttl(keys.users(NOON_MS // 1000, user_shard_of(IDS[0]))) > 4700


def test_writing_a_batch_twice_equals_writing_it_once(sink: RedisSink, redis_url: str, unique: str) -> None:
    process = Process(sink, "a")
    updates = process.take(SOME, 0)
    once = everything(redis_url, unique)
    process.write(updates)
    assert everything(redis_url, unique) == once


@pytest.mark.parametrize("killed_at", range(0, len(STREAM) + 1, 24))
@pytest.mark.parametrize("behind", [None, 0, 12, 48], ids=["no snapshot", "snapshot", "12 behind", "48 behind"])
def test_a_crash_anywhere_leaves_the_same_bytes_in_redis(
    redis_url: str, unique: str, killed_at: int, behind: int | None
) -> None:
    straight = Process(make_sink(redis_url, f"{unique}s"), "a")
    straight.take(STREAM, 0)

    first, snapshots = Process(make_sink(redis_url, unique), "a"), {}
    for start in range(0, killed_at, 12):
        snapshots[start] = first.step.snapshot()
        first.take(STREAM[start : start + 12], start)
    snapshots[killed_at] = first.step.snapshot()
    resume = None if behind is None else max(0, killed_at - behind)
    second = Process(make_sink(redis_url, unique), "b", snapshots[resume] if resume is not None else None)
    for start in range(killed_at if resume is None else resume, len(STREAM), 12):
        second.take(STREAM[start : start + 12], start)

    def renamed(group: str) -> dict[str, Any]:
        return {name.replace(group, "group", 1): value for name, value in everything(redis_url, group).items()}

    assert renamed(unique) == renamed(f"{unique}s")


def test_redis_that_lost_writes_is_counted_on_from_what_it_holds(redis_server: Any, unique: str) -> None:
    first = Process(make_sink(redis_server.url, unique), "a")
    first.take(STREAM[:60], 0)
    redis_server.stop()
    shutil.copytree(redis_server.data_dir, redis_server.root / "copy")
    redis_server.start()
    first.take(STREAM[60:90], 60)
    snapshot = first.step.snapshot()
    redis_server.stop()
    shutil.rmtree(redis_server.data_dir)
    shutil.copytree(redis_server.root / "copy", redis_server.data_dir)
    redis_server.start()
    with pytest.raises(LostWrites, match="forgotten acknowledged totals of partition 0"):
        first.take(STREAM[90:], 90)
    second = Process(make_sink(redis_server.url, unique), "b", snapshot)
    assert second.claim.offset_next == 60
    second.take(STREAM[60:90], 60)
    second.take(STREAM[90:], 90)
    lost = everything(redis_server.url, unique)
    redis_server.flush()
    Process(make_sink(redis_server.url, unique), "a").take(STREAM, 0)
    assert everything(redis_server.url, unique) == lost


@pytest.mark.parametrize("idle", [False, True], ids=["at a write", "while idle"])
def test_a_flushed_redis_is_noticed(redis_server: Any, unique: str, idle: bool) -> None:
    process = Process(make_sink(redis_server.url, unique), "a")
    process.take(SOME, 0)
    redis_server.flush()
    with pytest.raises(LostWrites):
        process.take([] if idle else SOME, 6)


@pytest.mark.parametrize("idle", [False, True], ids=["at a write", "while idle"])
def test_who_was_replaced_is_fenced_and_writes_nothing(
    redis_url: str, unique: str, sink: RedisSink, idle: bool
) -> None:
    older = Process(sink, "a")
    older.take(SOME, 0)
    newer = Process(make_sink(redis_url, unique), "b")
    newer.take(SOME, 6)
    held = everything(redis_url, unique)
    with pytest.raises(Fenced, match="Another process has taken over partition 0"):
        older.take([] if idle else SOME, 6)
    assert everything(redis_url, unique) == held


def test_an_update_beyond_the_position_is_a_gap(sink: RedisSink, redis_url: str, unique: str) -> None:
    process = Process(sink, "a")
    process.take(SOME, 0)
    process.updates(SOME, 6)
    held = everything(redis_url, unique)
    with pytest.raises(PositionGap, match="needs offset 6"):
        process.take(SOME, 12)
    assert everything(redis_url, unique) == held


def test_updates_that_redis_holds_already_still_bring_their_contents(
    sink: RedisSink, redis_url: str, unique: str
) -> None:
    process = Process(sink, "a")
    updates = process.take(SOME, 0)
    updates[0].contents = CONTENTS.stored([1])
    process.write(updates)
    held = everything(redis_url, unique)
    assert b'"content_title":"Title"' in held[keys_of(unique).partition(0).contents][IDS[0].encode()]
    assert held[keys_of(unique).partition(0).position][b"next"] == b"6"


def test_redis_that_lost_writes_between_claim_and_load_is_said_to_have(redis_url: str, unique: str) -> None:
    """The batches of this start begin where the partition was claimed: counting on from less would be a gap."""
    first = Process(make_sink(redis_url, unique), "a")
    first.take(SOME, 0)
    second = Process(make_sink(redis_url, unique), "b")
    assert second.claim.offset_next == 6
    redis.Redis.from_url(redis_url).hset(keys_of(unique).partition(0).position, "next", 3)
    with pytest.raises(LostWrites, match="forgotten acknowledged totals of partition 0"):
        second.take(SOME, 6)


def test_a_write_whose_answer_was_lost_counts_as_landed(
    redis_url: str, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Process(make_sink(redis_url, unique), "a")
    process.take(SOME, 0)
    commands = []
    execute = redis.client.Pipeline.execute

    def lose_the_first(pipeline: Any, *args: Any, **options: Any) -> Any:
        commands.append(len(pipeline))
        answers = execute(pipeline, *args, **options)
        if len(commands) == 1:
            raise redis.ConnectionError("the answer is lost")
        return answers

    monkeypatch.setattr(redis.client.Pipeline, "execute", lose_the_first)
    process.take(SOME, 6)
    assert len(commands) == 1
    assert process.sink.claim(PARTITION, "b").offset_next == 12


@pytest.mark.parametrize("meanwhile", ["claimed", "moved"])
def test_a_position_that_changes_while_a_write_is_made_drops_the_write(
    redis_url: str, unique: str, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    """Between what the write read and its transaction another process takes over, or an operator moves the position."""
    older = Process(make_sink(redis_url, unique), "a")
    older.take(SOME, 0)
    held = everything(redis_url, unique)
    position = keys_of(unique).partition(0).position
    client = redis.Redis.from_url(redis_url)
    execute, changed = redis.client.Pipeline.execute, []

    def execute_later(pipeline: Any, *args: Any, **options: Any) -> Any:
        if not changed:
            changed.append(client.hset(position, *(("owner", "b") if meanwhile == "claimed" else ("next", "20"))))
        return execute(pipeline, *args, **options)

    monkeypatch.setattr(redis.client.Pipeline, "execute", execute_later)
    if meanwhile == "claimed":
        with pytest.raises(Fenced, match="Another process has taken over partition 0"):
            older.take(SOME, 6)
        assert everything(redis_url, unique) == held
    else:
        older.take(SOME, 6)  # landed
        held[position][b"next"] = b"20"
        assert everything(redis_url, unique) == held


def test_redis_away_is_waited_for(redis_server: Any, unique: str, wait_for: Callable[..., Any]) -> None:
    sink = make_sink(redis_server.url, unique)
    process = Process(sink, "a")
    process.take(SOME, 0)
    redis_server.stop()
    writing = threading.Thread(target=process.take, args=(SOME, 6))
    writing.start()
    wait_for(lambda: "cannot write totals" in sink.last_error, message="the sink to say that it waits")
    redis_server.start()
    writing.join(20)
    assert not writing.is_alive()
    assert sink.last_error == ""
    assert sink.claim(PARTITION, "b").offset_next == 12


def test_a_snapshot_waits_until_redis_has_acknowledged(
    redis_server: Any, unique: str, wait_for: Callable[..., Any]
) -> None:
    sink = make_sink(redis_server.url, unique)
    process, part = Process(sink, "a"), sink.build_part("redis", "0", None)
    updates = process.updates(SOME, 0)
    redis_server.stop()
    part.write_batch(updates)
    wait_for(lambda: "cannot write totals" in sink.last_error, message="the write to be under way")
    settling = threading.Thread(target=part.snapshot)
    settling.start()
    assert settling.is_alive()
    redis_server.start()
    settling.join(20)
    assert not settling.is_alive()
    assert sink.claim(PARTITION, "b").offset_next == 6


def test_what_went_wrong_comes_with_the_snapshot_and_every_later_write(redis_server: Any, unique: str) -> None:
    sink = make_sink(redis_server.url, unique)
    process, part = Process(sink, "a"), sink.build_part("redis", "0", None)
    part.write_batch(process.updates(SOME, 0))
    part.snapshot()
    sink.claim(PARTITION, "b")
    part.write_batch(process.updates(SOME, 6))
    with pytest.raises(Fenced, match="Another process has taken over partition 0"):
        part.snapshot()
    with pytest.raises(Fenced, match="Another process has taken over partition 0"):
        sink.begin([]).result()


def test_a_stop_while_redis_is_away_abandons(redis_server: Any, unique: str) -> None:
    stop = threading.Event()
    process = Process(make_sink(redis_server.url, unique, stopping=stop.is_set), "a")
    redis_server.stop()
    stop.set()
    with pytest.raises(FlowStopped, match="Stopped while waiting for an answer"):
        process.take(SOME, 0)


def test_redis_that_may_evict_is_refused(redis_server: Any, unique: str) -> None:
    client = redis.Redis.from_url(redis_server.url)
    client.config_set("maxmemory-policy", "allkeys-lru")
    with pytest.raises(FlowStopped, match="maxmemory-policy is allkeys-lru"):
        make_sink(redis_server.url, unique).claim(PARTITION, "a")


@pytest.mark.parametrize(
    ("setting", "wrong", "says"),
    [("maxmemory", "1", "memory"), ("min-replicas-to-write", "1", "NOREPLICAS")],
    ids=["full", "without enough replicas"],
)
def test_a_redis_that_takes_no_writes_is_waited_for_and_loses_nothing(
    redis_server: Any, unique: str, wait_for: Callable[..., Any], setting: str, wrong: str, says: str
) -> None:
    sink, client = make_sink(redis_server.url, unique), redis.Redis.from_url(redis_server.url)
    process = Process(sink, "a")
    process.take(SOME, 0)
    client.config_set(setting, wrong)
    writing = threading.Thread(target=process.take, args=(SOME, 6))
    writing.start()
    wait_for(lambda: says in sink.last_error, message="the sink to say why it waits")
    client.config_set(setting, "0")
    writing.join(20)
    assert sink.claim(PARTITION, "b").offset_next == 12


def test_a_wrong_password_stops_with_a_sentence(redis_server: Any, unique: str) -> None:
    redis.Redis.from_url(redis_server.url).config_set("requirepass", "secret")
    with pytest.raises(FlowStopped, match="Redis refused to check its eviction policy"):
        make_sink(redis_server.url, unique).claim(PARTITION, "a")


def test_totals_of_a_recreated_topic_are_refused(sink: RedisSink) -> None:
    Process(sink, "a").take(SOME, 0)
    with pytest.raises(FlowStopped, match="now recreated"):
        sink.claim(PartitionId(PARTITION.topic, "recreated", 0), "b")


def test_updates_of_a_partition_are_joined_and_the_newest_row_counts(
    sink: RedisSink, redis_url: str, unique: str
) -> None:
    process = Process(sink, "a")
    updates: list[Update] = []
    for start in range(0, len(STREAM), 3):
        updates += process.updates(STREAM[start : start + 3], start)
    process.write(updates)
    Process(make_sink(redis_url, f"{unique}s"), "a").take(STREAM, 0)
    held = everything(redis_url, unique)
    assert held == {
        name.replace(f"{unique}s", unique, 1): value for name, value in everything(redis_url, f"{unique}s").items()
    }


def test_the_first_thousand_of_a_board_are_kept_exactly(sink: RedisSink, redis_url: str, unique: str) -> None:
    process = Process(sink, "a")
    many = [Record(0, 0, f"c{i}", "play" if i % 2 else "finish") for i in range(3000)]
    process.take(many, 0)
    process.take([Record(0, 0, f"c{i}", "finish") for i in range(1, 3000, 2)], 3000)
    keys = keys_of(unique).partition(0)
    board = everything(redis_url, unique)[keys.scores("minute", NOON_MS // 1000)]
    assert len(board) == 1000
    assert {score for _, score in board} == {4000.0}


def test_a_write_of_many_contents_fits_the_script(sink: RedisSink) -> None:
    process = Process(sink, "a")
    process.take([Record(0, 0, f"c{i}", user=f"u{i}") for i in range(12_000)], 0)
    (minute,) = sink.load(Span(PARTITION, "a", 0, 0)).periods
    assert len(minute.members) == minute.events == 12_000


def test_partitions_go_in_one_round_trip(redis_url: str, unique: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = make_sink(redis_url, unique)
    partitions = [PartitionId(PARTITION.topic, PARTITION.topic_id, number) for number in range(3)]
    updates = []
    for partition in partitions:
        sink.claim(partition, "a")
        (update,) = Process(sink, "a").updates(SOME, 0)
        update.span = Span(partition, "a", 0, 6)
        updates.append(update)
    trips = []
    execute = redis.client.Pipeline.execute
    monkeypatch.setattr(
        redis.client.Pipeline, "execute", lambda *args, **options: trips.append(1) or execute(*args, **options)
    )
    sink.write(updates)
    assert len(trips) == 1
    assert [sink.claim(partition, "b").offset_next for partition in partitions] == [6, 6, 6]


def test_a_client_is_made_when_it_is_needed(unique: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks.redis_client, "connect", pytest.fail)
    make_sink("redis://127.0.0.1:1/0", unique)
