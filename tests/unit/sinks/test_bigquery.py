"""What lands in BigQuery, what becomes a dead letter and what Kafka remembers: promises 2, 3, 4, 8, 13 and the
invariants I1 to I13 of the sink, over real gRPC against a server with faults."""

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import msgspec
import pytest
from google.rpc import code_pb2

import metrics
from sinks.bigquery import BigQuerySink
from sinks.bigquery_writer import Stored
from sinks.fenced_commit import Committed
from sources.positions import Fenced, FlowStopped, PositionGap
from tests.fakes.bigquery_events import (
    NOW,
    TODAY,
    Abandoned,
    EventBatch,
    batch,
    bigquery_sink,
    partition_id,
)
from tests.fakes.bigquery_write import Code, FakeBigQuery, Fault
from tests.fakes.positions import FakeBroker

UNAVAILABLE = (code_pb2.UNAVAILABLE, None, "try again")


@pytest.fixture
def server() -> Iterator[FakeBigQuery]:
    fake = FakeBigQuery().start()
    yield fake
    fake.stop()


@pytest.fixture
def broker() -> FakeBroker:
    return FakeBroker()


@pytest.fixture
def aside(server: FakeBigQuery) -> Iterator[Callable[..., "Future[None]"]]:
    """Run a blocking write on a thread of its own, with its sink claimed there (writers belong to one thread)."""
    with ThreadPoolExecutor(4) as pool:
        yield pool.submit
        server.stop()


def refused_offsets(broker: FakeBroker) -> list[int]:
    return [int(dict(letter.headers)["offset"]) for letter in broker.letters]


def assert_once(server: FakeBigQuery, offsets: Any, partition: int = 0) -> None:
    """I1 and I2: every offset is in the table, once, and landed in order."""
    assert server.offsets(partition) == list(offsets)


def small_requests(monkeypatch: pytest.MonkeyPatch, rows_bytes: int = 600) -> None:
    """Cut requests so small that a batch of ten becomes several."""
    monkeypatch.setattr("sinks.bigquery_rows.REQUEST_BYTES", rows_bytes)


# What lands


def test_rows_carry_the_kafka_record_they_came_from(server: FakeBigQuery, broker: FakeBroker) -> None:
    bigquery_sink(server, broker).write([batch(0, 2)])
    row = server.rows[1]
    assert row["source_topic"] == "events"
    assert row["source_epoch"] == partition_id().topic_id
    assert (row["kafka_partition"], row["kafka_offset"]) == (0, 1)
    assert row["kafka_timestamp"].timestamp() == NOW
    assert row["ingest_timestamp"].timestamp() == NOW
    assert row["event_id"] == "e0-1"


def test_i02_gaps_between_offsets_are_no_loss(server: FakeBigQuery, broker: FakeBroker) -> None:
    bigquery_sink(server, broker).write([batch(0, 10, [2, 3, 7]), batch(10, 15, [14])])
    assert_once(server, [2, 3, 7, 14])


def test_waiting_batches_are_joined_into_one_request(server: FakeBigQuery, broker: FakeBroker) -> None:
    bigquery_sink(server, broker).write([batch(0, 5), batch(5, 10), batch(10, 15)])
    assert [rows for _, _, rows, _ in server.appends] == [15]


def test_several_partitions_have_a_stream_each(server: FakeBigQuery, broker: FakeBroker) -> None:
    sink = bigquery_sink(server, broker, partitions=3)
    sink.write([batch(0, 5, partition=partition_id(number)) for number in range(3)])
    for number in range(3):
        assert_once(server, range(5), number)
    assert len(server.streams) == 3


def test_events_for_another_sink_are_passed_over(server: FakeBigQuery, broker: FakeBroker) -> None:
    sink = bigquery_sink(server, broker)
    sink.write([batch(0, 4, targets={1: "partner", 2: "bigquery"})])
    assert_once(server, [0, 2, 3])


def test_a_batch_of_nothing_asks_bigquery_for_nothing(server: FakeBigQuery, broker: FakeBroker) -> None:
    server.down = True
    sink = bigquery_sink(server, broker)
    sink.write([batch(0, 0), batch(0, 7, [])])
    assert broker.positions[0].offset_next == 7


def test_a_large_batch_is_cut_into_requests(
    server: FakeBigQuery, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_requests(monkeypatch)
    bigquery_sink(server, broker).write([batch(0, 40)])
    assert_once(server, range(40))
    assert len(server.appends) > 8  # more than the window holds


# Positions


def test_the_position_follows_the_acknowledgement(server: FakeBigQuery, broker: FakeBroker) -> None:
    clock = [float(NOW)]
    sink = bigquery_sink(server, broker, clock=lambda: clock[0])
    sink.write([batch(0, 10)])
    assert broker.positions[0].offset_next == 0  # may lag: a start asks the table
    clock[0] += 3
    sink.write([batch(10, 20)])
    assert broker.positions[0].offset_next == 20
    assert msgspec.json.decode(broker.positions[0].metadata, type=Stored) == Stored(19, TODAY)


def test_an_idle_batch_and_a_stop_store_the_position_at_once(server: FakeBigQuery, broker: FakeBroker) -> None:
    sink = bigquery_sink(server, broker)
    sink.write([batch(0, 10)])
    sink.write([batch(10, 10)])
    assert broker.positions[0].offset_next == 10
    stopping = bigquery_sink(server, broker, stopping=lambda: True)
    stopping.write([batch(10, 12)])
    assert broker.positions[0].offset_next == 12


def test_an_idle_position_is_renewed(server: FakeBigQuery, broker: FakeBroker) -> None:
    clock = [float(NOW)]
    sink = bigquery_sink(server, broker, clock=lambda: clock[0])
    clock[0] += 7200
    broker.now = clock[0]
    sink.write([batch(0, 0)])
    assert broker.positions[0].renewed_at == clock[0]


def test_a_gap_stops_the_flow(server: FakeBigQuery, broker: FakeBroker) -> None:
    with pytest.raises(PositionGap, match="begins at offset 5, but sink bigquery still needs 0"):
        bigquery_sink(server, broker).write([batch(5, 10)])
    assert server.rows == []


def test_a_batch_of_another_owner_is_fenced(server: FakeBigQuery, broker: FakeBroker) -> None:
    with pytest.raises(Fenced, match="does not own it"):
        bigquery_sink(server, broker).write([batch(0, 5, owner="somebody")])


def test_a_batch_of_an_unclaimed_partition_is_fenced(server: FakeBigQuery, broker: FakeBroker) -> None:
    with pytest.raises(Fenced, match="does not own it here"):
        bigquery_sink(server, broker).write([batch(0, 5, partition=partition_id(3))])


def test_claim_needs_kafka_only(server: FakeBigQuery, broker: FakeBroker) -> None:
    server.down = True
    broker.positions[0] = Committed(42, "", 0.0)
    sink = bigquery_sink(server, broker)
    assert sink.claim(partition_id(), "me").offset_next == 42


def test_a_position_of_another_version_is_named(server: FakeBigQuery, broker: FakeBroker) -> None:
    broker.positions[0] = Committed(0, "3-7", 0.0)
    with pytest.raises(FlowStopped, match="which this version does not understand"):
        bigquery_sink(server, broker)


# I3 to I13


def test_i03_write_batch_returns_only_after_every_ack(
    server: FakeBigQuery, broker: FakeBroker, aside: Any, wait_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_requests(monkeypatch)
    held = Fault(hold=True)
    server.expect({2: held})

    def write() -> None:
        bigquery_sink(server, broker, ack_seconds=30).write([batch(0, 40)])

    writing = aside(write)
    wait_for(lambda: server.arrived >= 8, message="the window to be on its way")
    assert not writing.done()
    held.gate.set()
    writing.result(10)
    assert_once(server, range(40))


def test_i03_killed_while_acks_are_withheld_loses_nothing(
    server: FakeBigQuery, broker: FakeBroker, aside: Any, wait_for: Any
) -> None:
    server.expect({0: Fault(hold=True)})
    aside(lambda: bigquery_sink(server, broker, ack_seconds=30).write([batch(0, 10)]))
    wait_for(lambda: server.arrived, message="the append")
    server.always = None
    bigquery_sink(server, broker, owner="you").write([batch(0, 10, owner="you")])
    assert_once(server, range(10))


def test_i04_landed_but_never_acknowledged_then_killed(
    server: FakeBigQuery, broker: FakeBroker, aside: Any, wait_for: Any
) -> None:
    server.expect({0: Fault(drop_ack=True)})
    aside(lambda: bigquery_sink(server, broker, ack_seconds=30).write([batch(0, 10)]))
    wait_for(lambda: server.rows, message="the rows")
    bigquery_sink(server, broker, owner="you").write([batch(0, 15, owner="you")])
    assert_once(server, range(15))


def test_i04_landed_but_never_acknowledged_resent_in_the_same_run(server: FakeBigQuery, broker: FakeBroker) -> None:
    server.expect({0: Fault(drop_ack=True)})
    bigquery_sink(server, broker).write([batch(0, 10)])
    assert_once(server, range(10))
    assert [outcome for *_, outcome in server.appends] == ["landed", "exists"]


def late_landing(server: FakeBigQuery, broker: FakeBroker, aside: Any, wait_for: Any) -> None:
    """An append waits in the server's queue, its client is given up, a successor takes over, then it is let go."""
    held = Fault(hold=True)
    server.expect({0: held})
    aside(lambda: bigquery_sink(server, broker, ack_seconds=60).write([batch(0, 10)]))
    wait_for(lambda: server.arrived, message="the append")
    bigquery_sink(server, broker, owner="you").write([batch(0, 10, owner="you")])
    held.gate.set()
    wait_for(lambda: len(server.appends) == 2, message="the late append to be looked at")


def test_i05_late_landing_is_refused(server: FakeBigQuery, broker: FakeBroker, aside: Any, wait_for: Any) -> None:
    late_landing(server, broker, aside, wait_for)
    assert_once(server, range(10))
    assert server.appends[-1][-1] == "finalised"


def test_i05_control_without_the_fence_late_landing_makes_duplicates(
    server: FakeBigQuery, broker: FakeBroker, aside: Any, wait_for: Any
) -> None:
    server.fence = False
    late_landing(server, broker, aside, wait_for)
    assert sorted(server.offsets()) == sorted([*range(10), *range(10)])


def test_i06_the_older_of_two_writers_ends_at_its_next_write(server: FakeBigQuery, broker: FakeBroker) -> None:
    old = bigquery_sink(server, broker)
    old.write([batch(0, 10)])
    bigquery_sink(server, broker, owner="you").write([batch(0, 20, owner="you")])
    with pytest.raises(Fenced, match="another process has taken over"):
        old.write([batch(10, 20)])
    assert_once(server, range(20))


def test_i07_a_failed_append_lets_none_behind_it_land(
    server: FakeBigQuery, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch, aside: Any, wait_for: Any
) -> None:
    small_requests(monkeypatch)
    failing = Fault(hold=True, error=UNAVAILABLE)
    server.expect({1: failing})
    writing = aside(lambda: bigquery_sink(server, broker).write([batch(0, 24)]))
    wait_for(lambda: server.arrived > 2, message="an append behind the one that fails")
    failing.gate.set()
    writing.result(60)
    assert_once(server, range(24))
    assert "gap" in [outcome for *_, outcome in server.appends]


def test_i07_a_row_error_in_the_second_of_four(
    server: FakeBigQuery, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_requests(monkeypatch)
    server.refuses = lambda row: "bad value" if row["kafka_offset"] == 9 else None
    bigquery_sink(server, broker).write([batch(0, 24)])
    assert_once(server, [offset for offset in range(24) if offset != 9])
    assert refused_offsets(broker) == [9]
    assert len(server.streams) == 1  # all answers came: the same stream goes on


def test_i07_a_row_error_then_the_connection_is_cut_and_the_rest_lands_late(
    server: FakeBigQuery, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch, wait_for: Any
) -> None:
    small_requests(monkeypatch)
    late = Fault(cut=True)
    server.expect({2: late})
    server.refuses = lambda row: "bad value" if row["kafka_offset"] == 9 else None
    bigquery_sink(server, broker).write([batch(0, 24)])
    assert len(server.streams) == 2  # rows must not be renumbered where old requests may still land
    late.gate.set()
    wait_for(lambda: any(outcome == "finalised" for *_, outcome in server.appends), message="the late requests")
    assert_once(server, [offset for offset in range(24) if offset != 9])
    assert refused_offsets(broker) == [9]


def test_i08_a_batch_fed_twice_lands_once(server: FakeBigQuery, broker: FakeBroker) -> None:
    sink = bigquery_sink(server, broker)
    sink.write([batch(0, 10), batch(0, 10)])
    sink.write([batch(0, 10)])
    assert_once(server, range(10))


def test_i08_a_replay_from_zero_lands_nothing(server: FakeBigQuery, broker: FakeBroker) -> None:
    days = {offset: TODAY - offset % 7 for offset in range(100)}
    sink = bigquery_sink(server, broker)
    for start in range(0, 100, 10):
        sink.write([batch(start, start + 10, days=days)])
    broker.positions[0] = Committed(0, "", 0.0)  # the lower bound is gone: the table alone must do
    again = bigquery_sink(server, broker, owner="you")
    for start in range(0, 110, 10):
        again.write([batch(start, start + 10, owner="you", days=days)])
    assert_once(server, range(110))


def test_i08_a_replay_in_other_batches_lands_only_what_is_missing(server: FakeBigQuery, broker: FakeBroker) -> None:
    chance = random.Random(7)
    days = {offset: TODAY - chance.randrange(12) for offset in range(200)}
    landed = 0
    for run in range(8):
        owner = f"run {run}"
        sink = bigquery_sink(server, broker, owner=owner)
        at, end = 0, min(landed + chance.randrange(5, 40), 200)
        broker.positions[0] = Committed(0, "", 0.0)
        while at < end:
            to = min(at + chance.randrange(1, 25), end)
            sink.write([batch(at, to, owner=owner, days=days)])
            at = to
        landed = end
        assert_once(server, range(landed))


def test_questions_stop_once_a_row_is_absent(server: FakeBigQuery, broker: FakeBroker) -> None:
    sink = bigquery_sink(server, broker)
    sink.write([batch(0, 10)])
    broker.positions[0] = Committed(0, "", 0.0)
    server.questions.clear()
    again = bigquery_sink(server, broker, owner="you")
    for start in range(0, 50, 5):
        again.write([batch(start, start + 5, owner="you")])
    # Offsets 0-4 have landed, and so have 5-9 by the same answer; 10-14 are absent.
    assert server.questions == [(0, (TODAY,)), (10, (TODAY,))]


def test_i10_a_late_event_ten_days_back_as_the_last_row_before_the_kill_is_found(
    server: FakeBigQuery, broker: FakeBroker
) -> None:
    days = {9: TODAY - 10}
    bigquery_sink(server, broker).write([batch(0, 10, days=days)])
    bigquery_sink(server, broker, owner="you").write([batch(0, 12, owner="you", days=days)])
    assert_once(server, range(12))
    assert server.questions[-1] == (0, (TODAY - 10, TODAY))


def test_i11_an_idle_connection_that_was_closed_is_made_anew(server: FakeBigQuery, broker: FakeBroker) -> None:
    sink = bigquery_sink(server, broker)
    sink.write([batch(0, 10)])
    server.cut_connections()
    sink.write([batch(10, 20)])
    assert_once(server, range(20))
    assert len(server.streams) == 1


def test_i11_a_forgotten_stream_ends_the_process_and_the_next_goes_on(server: FakeBigQuery, broker: FakeBroker) -> None:
    sink = bigquery_sink(server, broker)
    sink.write([batch(0, 10)])
    server.forget(next(iter(server.streams)))
    with pytest.raises(Fenced, match="stood idle for days"):
        sink.write([batch(10, 20)])
    bigquery_sink(server, broker, owner="you").write([batch(0, 20, owner="you")])
    assert_once(server, range(20))


def test_i11_a_stream_that_rested_a_day_is_replaced_before_it_expires(server: FakeBigQuery, broker: FakeBroker) -> None:
    clock = [float(NOW)]
    sink = bigquery_sink(server, broker, clock=lambda: clock[0])
    sink.write([batch(0, 10)])
    clock[0] += 90_000
    server.forget(next(iter(server.streams)))
    sink.write([batch(10, 20)])
    assert_once(server, range(20))


def test_i12_an_erasure_that_keeps_the_row_brings_nothing_back(server: FakeBigQuery, broker: FakeBroker) -> None:
    bigquery_sink(server, broker).write([batch(0, 10)])
    for row in server.rows[5:]:
        row["event_id"] = None
    bigquery_sink(server, broker, owner="you").write([batch(0, 10, owner="you")])
    assert_once(server, range(10))


def test_i12_control_a_delete_of_the_newest_rows_brings_them_back(server: FakeBigQuery, broker: FakeBroker) -> None:
    bigquery_sink(server, broker).write([batch(0, 10)])
    del server.rows[5:]
    bigquery_sink(server, broker, owner="you").write([batch(0, 10, owner="you")])
    assert server.appends[-1][2] == 5


def test_i13_rows_of_another_incarnation_of_the_topic_hide_nothing(server: FakeBigQuery, broker: FakeBroker) -> None:
    bigquery_sink(server, broker).write([batch(0, 10)])
    broker.positions[0] = Committed(0, "", 0.0)
    new = partition_id(topic_id="BBBBBBBBBBBBBBBBBBBBBQ")
    sink = bigquery_sink(server, broker, topic_id=new.topic_id, owner="you")
    sink.write([batch(0, 4, owner="you", partition=new)])
    assert server.offsets() == [*range(10), *range(4)]


def test_a_table_restored_from_a_backup_is_noticed(server: FakeBigQuery, broker: FakeBroker) -> None:
    sink = bigquery_sink(server, broker)
    sink.write([batch(0, 10)])
    sink.write([batch(10, 10)])
    del server.rows[5:]
    with pytest.raises(FlowStopped, match=r"offset 9 of partition 0 of events.*restored from a backup"):
        bigquery_sink(server, broker, owner="you").write([batch(10, 12, owner="you")])


# Refusals


def test_a_refused_row_does_not_hold_back_its_batch(server: FakeBigQuery, broker: FakeBroker) -> None:
    bad = {3, 4, 7}
    server.refuses = lambda row: "no such value" if row["kafka_offset"] in bad else None
    sink = bigquery_sink(server, broker)
    sink.write([batch(0, 10)])
    assert_once(server, [0, 1, 2, 5, 6, 8, 9])
    assert refused_offsets(broker) == [3, 4, 7]
    headers = {name: value.decode() for name, value in broker.letters[0].headers}
    assert headers["reason"] == "row_refused"
    assert headers["sink"] == "bigquery"
    assert "no such value" in headers["detail"]
    assert (broker.letters[0].key, broker.letters[0].value) == (b"k3", b"v3")


def test_a_refusal_and_the_position_behind_it_are_one_transaction(server: FakeBigQuery, broker: FakeBroker) -> None:
    seen_at_commit: list[tuple[int, list[int]]] = []
    server.refuses = lambda row: "bad" if row["kafka_offset"] in (3, 4, 7) else None
    broker.before_commit = lambda partition, offset_next, extra: seen_at_commit.append((offset_next, server.offsets()))
    bigquery_sink(server, broker).write([batch(0, 10)])
    # All before a refused row is acknowledged, nothing behind it is sent.
    assert seen_at_commit == [(5, [0, 1, 2]), (8, [0, 1, 2, 5, 6])]


def test_killed_before_the_dead_letter_is_written_it_is_written_once(server: FakeBigQuery, broker: FakeBroker) -> None:
    server.refuses = lambda row: "bad" if row["kafka_offset"] == 3 else None

    def killed(partition: int, offset_next: int, extra: str) -> None:
        raise Abandoned

    broker.before_commit = killed
    with pytest.raises(Abandoned):
        bigquery_sink(server, broker).write([batch(0, 10)])
    broker.before_commit = lambda partition, offset_next, extra: None
    bigquery_sink(server, broker, owner="you").write([batch(0, 10, owner="you")])
    assert_once(server, [0, 1, 2, *range(4, 10)])
    assert refused_offsets(broker) == [3]


def test_a_request_refused_as_a_whole_is_split_until_the_culprit_stands_alone(
    server: FakeBigQuery, broker: FakeBroker
) -> None:
    def look_at(request: Any, rows: Any, original: Any = server._looked_at) -> Any:
        if any(row["kafka_offset"] == 6 for row in rows):
            from tests.fakes.bigquery_write import refused

            return refused(code_pb2.INVALID_ARGUMENT, None, "cannot parse"), "refused"
        return original(request, rows)

    server._looked_at = look_at  # type: ignore[method-assign]
    bigquery_sink(server, broker).write([batch(0, 20)])
    assert_once(server, [offset for offset in range(20) if offset != 6])
    assert refused_offsets(broker) == [6]


@pytest.mark.parametrize(
    ("day", "refused"),
    [(TODAY - 3650, False), (TODAY - 3651, True), (TODAY + 364, False), (TODAY + 365, True)],
)
def test_a_day_that_the_table_cannot_hold_is_a_dead_letter(
    server: FakeBigQuery, broker: FakeBroker, day: int, refused: bool
) -> None:
    bigquery_sink(server, broker).write([batch(0, 3, days={1: day})])
    assert refused_offsets(broker) == ([1] if refused else [])
    assert_once(server, [0, 2] if refused else [0, 1, 2])


def test_a_row_above_the_limit_of_a_request_is_a_dead_letter(
    server: FakeBigQuery, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sinks.bigquery_writer.REQUEST_BYTES_MAX", 5_000)
    monkeypatch.setattr("sinks.bigquery_rows.REQUEST_BYTES", 2_000)
    sink = bigquery_sink(server, broker)
    sink.write([batch(0, 3), batch(3, 4, payload="x" * 9_000), batch(4, 6)])
    assert refused_offsets(broker) == [3]
    assert_once(server, [0, 1, 2, 4, 5])


def test_twenty_refused_in_a_row_open_the_breaker_and_the_twentieth_waits(
    server: FakeBigQuery, broker: FakeBroker, aside: Any, wait_for: Any
) -> None:
    taken = threading.Event()
    server.refuses = lambda row: None if row["kafka_offset"] < 5 or taken.is_set() else "everything is bad"
    sinks: list[BigQuerySink] = []

    def write() -> None:
        sinks.append(bigquery_sink(server, broker))
        sinks[0].write([batch(0, 40)])

    writing = aside(write)
    wait_for(lambda: sinks and sinks[0].last_error, message="the breaker")
    assert sinks[0].breaker_open
    assert "operations.dead_letters pass bigquery 0 24" in str(sinks[0].last_error)
    assert refused_offsets(broker) == list(range(5, 24))  # nineteen; the twentieth is no dead letter
    taken.set()
    writing.result(10)
    assert refused_offsets(broker) == list(range(5, 24))
    assert_once(server, [*range(5), *range(24, 40)])
    assert sinks[0].last_error is None
    assert not sinks[0].breaker_open
    assert metrics.BREAKER.labels("bigquery")._value.get() == 0


def test_an_operator_may_pass_the_row_that_waits(server: FakeBigQuery, broker: FakeBroker) -> None:
    server.refuses = lambda row: "bad" if row["kafka_offset"] < 20 else None
    sink = bigquery_sink(server, broker, passed=lambda partition, offset: offset == 19)
    sink.write([batch(0, 30)])
    assert refused_offsets(broker) == list(range(20))
    assert_once(server, range(20, 30))


def test_the_count_of_refusals_survives_a_restart(server: FakeBigQuery, broker: FakeBroker, aside: Any) -> None:
    server.refuses = lambda row: "bad"
    bigquery_sink(server, broker).write([batch(0, 19)])
    assert len(broker.letters) == 19
    stop = threading.Event()

    def write() -> None:
        bigquery_sink(server, broker, owner="you", stopping=stop.is_set).write([batch(19, 21, owner="you")])

    writing = aside(write)
    with pytest.raises(TimeoutError):
        writing.result(0.5)
    assert len(broker.letters) == 19
    stop.set()
    assert isinstance(writing.exception(10), Abandoned)


# Outages


def test_bigquery_down_makes_no_dead_letters_and_loses_nothing(
    server: FakeBigQuery, broker: FakeBroker, aside: Any, wait_for: Any
) -> None:
    server.always = Fault(error=UNAVAILABLE)
    sinks: list[BigQuerySink] = []

    def write() -> None:
        sinks.append(bigquery_sink(server, broker))
        sinks[0].write([batch(0, 50)])

    writing = aside(write)
    wait_for(lambda: sinks and sinks[0].breaker_open, message="the breaker")
    assert sinks[0].last_error == "BigQuery is waited for, to append rows of partition 0 of events: try again"
    assert metrics.BREAKER.labels("bigquery")._value.get() == 1
    server.always = None
    writing.result(10)
    assert_once(server, range(50))
    assert broker.letters == []
    assert sinks[0].last_error is None


def test_down_at_the_start_is_waited_for(server: FakeBigQuery, broker: FakeBroker, aside: Any, wait_for: Any) -> None:
    server.down = True
    sinks: list[BigQuerySink] = []

    def write() -> None:
        sinks.append(bigquery_sink(server, broker))
        sinks[0].write([batch(0, 5)])

    writing = aside(write)
    wait_for(lambda: sinks and sinks[0].last_error, message="words")
    assert "open a write stream" in str(sinks[0].last_error)
    server.down = False
    writing.result(10)
    assert_once(server, range(5))


def test_a_stop_while_bigquery_is_down_commits_nothing(server: FakeBigQuery, broker: FakeBroker) -> None:
    server.always = Fault(error=UNAVAILABLE)
    with pytest.raises(Abandoned):
        bigquery_sink(server, broker, stopping=lambda: True).write([batch(0, 5)])
    assert broker.log == []


def test_a_lost_partition_is_noticed_while_waiting(server: FakeBigQuery, broker: FakeBroker) -> None:
    clock = [float(NOW)]

    def later() -> float:
        clock[0] += 20
        return clock[0]

    server.always = Fault(error=UNAVAILABLE)
    sink = bigquery_sink(server, broker, clock=later)
    broker.owners[0] = "somebody newer"
    with pytest.raises(Fenced):
        sink.write([batch(0, 5)])


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        ((code_pb2.PERMISSION_DENIED, None, "no"), "refuses appends"),
        ((code_pb2.NOT_FOUND, Code.TABLE_NOT_FOUND, "no table"), "operations.provision --check"),
        ((code_pb2.INVALID_ARGUMENT, Code.SCHEMA_MISMATCH_EXTRA_FIELDS, "extra"), "operations.provision --check"),
    ],
)
def test_what_waiting_cannot_cure_stops_the_flow(
    server: FakeBigQuery, broker: FakeBroker, error: Any, sentence: str
) -> None:
    server.always = Fault(error=error)
    with pytest.raises(FlowStopped, match=sentence):
        bigquery_sink(server, broker).write([batch(0, 5)])
    assert broker.log == []


def test_a_clean_end_finalises_its_streams(server: FakeBigQuery, broker: FakeBroker) -> None:
    sink = bigquery_sink(server, broker, partitions=2)
    sink.write([batch(0, 5)])
    assert len(server.open_streams()) == 2
    sink.close()
    assert server.open_streams() == []


def test_a_clean_end_with_bigquery_down_is_quick(server: FakeBigQuery, broker: FakeBroker) -> None:
    sink = bigquery_sink(server, broker)
    sink.write([batch(0, 5)])
    server.down = True
    sink.close()


# Chance


@pytest.mark.parametrize("seed", range(6))
def test_i02_any_faults_and_any_restarts_land_each_row_once_or_make_it_a_dead_letter(
    server: FakeBigQuery, broker: FakeBroker, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I1 and I2 under chance: lost answers, errors, cuts with late landings, refusals, restarts at any write."""
    small_requests(monkeypatch)
    chance = random.Random(seed)
    bad = set(chance.sample(range(300), 6))
    days = {offset: TODAY - chance.randrange(5) for offset in range(300)}
    server.refuses = lambda row: "bad" if row["kafka_offset"] in bad else None
    gates: list[threading.Event] = []

    def fault() -> Fault:
        made = chance.choice([Fault(drop_ack=True), Fault(error=UNAVAILABLE), Fault(cut=True), Fault()])
        gates.append(made.gate)
        return made

    at, owner = 0, 0
    sink = bigquery_sink(server, broker, owner="0", ack_seconds=0.1)
    while at < 300:
        server.expect({chance.randrange(6): fault()})
        to = min(at + chance.randrange(1, 50), 300)
        sink.write([batch(at, to, owner=str(owner), days=days)])
        at = to
        if chance.random() < 0.4:
            owner += 1
            sink = bigquery_sink(server, broker, owner=str(owner), ack_seconds=0.1)
            at = broker.positions[0].offset_next
        if chance.random() < 0.5:
            for gate in gates:
                gate.set()
    for gate in gates:
        gate.set()
    assert_once(server, [offset for offset in range(300) if offset not in bad])
    assert refused_offsets(broker) == sorted(bad)


def test_a_batch_is_an_event_batch() -> None:
    """The material has the columns that the sink names."""
    made: EventBatch = batch(0, 3)
    assert len(made.offsets) == len(made.keys) == len(made.values) == len(made.event_ids) == 3
