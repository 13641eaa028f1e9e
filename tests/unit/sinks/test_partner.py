"""What the partner gets, what becomes a dead letter and what Kafka remembers: promises 2, 3, 4, 8 and 13 on fakes."""

import contextlib
import hashlib
import json
import random
import threading
from collections.abc import Callable, Sequence

import httpx
import msgspec
import pytest
import structlog

from sinks.fenced_commit import METADATA_BYTES_MAX, Committed, PositionMetadata
from sinks.partner import PartnerSink
from sinks.partner_client import REFUSED_IN_A_ROW_MAX
from sinks.partner_requests import RANGE_REQUESTS_MAX, Stored, idempotency_key
from sources.positions import Fenced, FlowStopped, PositionGap
from tests.fakes.partner_events import (
    Abandoned,
    EventBatch,
    FunctionPartner,
    batch,
    event_id,
    partition_id,
    partner_sink,
    refusing,
)
from tests.fakes.positions import FakeBroker, FakeFencedCommit

NOW = FakeBroker().now


def ids(*offsets: int, partition: int = 0) -> list[str]:
    return [event_id(partition, offset) for offset in offsets]


def refused_offsets(broker: FakeBroker) -> list[int]:
    return [int(dict(letter.headers)["offset"]) for letter in broker.letters]


# What goes out


def test_events_go_out_in_offset_order_in_arrays_of_the_batch_size() -> None:
    broker, partner = FakeBroker(), FunctionPartner()
    partner_sink(broker, partner, batch_size=4).write([batch(0, 6), batch(6, 10)])
    assert [sent.ids for sent in partner.sent] == [ids(0, 1, 2, 3), ids(4, 5, 6, 7), ids(8, 9)]
    assert partner.sent[0].body.startswith(b'[{"event_id":"e0-0","n":0},{')
    assert partner.sent[0].headers["authorization"] == "Bearer secret"


def test_the_remainder_of_an_array_stays_an_array() -> None:
    broker, partner = FakeBroker(), FunctionPartner()
    partner_sink(broker, partner, batch_size=4).write([batch(0, 5)])
    assert isinstance(json.loads(partner.sent[-1].body), list)


def test_batch_size_one_sends_single_objects() -> None:
    broker, partner = FakeBroker(), FunctionPartner()
    partner_sink(broker, partner, batch_size=1).write([batch(0, 2)])
    assert [json.loads(sent.body) for sent in partner.sent] == [
        {"event_id": "e0-0", "n": 0},
        {"event_id": "e0-1", "n": 1},
    ]


def test_the_key_is_the_documented_hash_of_topic_id_partition_and_offsets() -> None:
    broker, partner = FakeBroker(), FunctionPartner()
    partner_sink(broker, partner).write([batch(0, 9, [2, 3, 8])])
    assert partner.sent[0].key == hashlib.sha256(b"AAAAAAAAAAAAAAAAAAAAAQ/0/2,3,8").hexdigest()
    assert partner.sent[0].key == idempotency_key(partition_id(0), [2, 3, 8])
    others = [partition_id(1), partition_id(0, topic_id="B")]
    assert len({partner.sent[0].key, *(idempotency_key(other, [2, 3, 8]) for other in others)}) == 3


def test_events_for_another_sink_are_passed_over_and_the_position_moves() -> None:
    broker, partner = FakeBroker(), FunctionPartner()
    sink = partner_sink(broker, partner)
    sink.write([batch(0, 4, targets={1: "bigquery", 2: "partner"})])
    sink.write([batch(4, 6, targets={4: "bigquery", 5: "bigquery"})])
    sink.write([batch(6, 6)])
    assert partner.accepted == ids(0, 2, 3)
    assert broker.positions[0].offset_next == 6


# Positions


def test_what_waits_is_one_range_in_flight_and_the_next_one_acknowledges_it() -> None:
    broker = FakeBroker()
    stored_when_sent: list[tuple[int, str]] = []

    def look(sent: list[str], tries: int) -> httpx.Response:
        stored_when_sent.append((broker.positions[0].offset_next, broker.positions[0].metadata))
        return httpx.Response(200)

    sink = partner_sink(broker, FunctionPartner(look), batch_size=2)
    sink.write([batch(0, 5)])
    sink.write([batch(5, 7)])
    assert stored_when_sent == [(0, '{"to":5,"events":[2,2,1]}')] * 3 + [(5, '{"to":7,"events":2}')]
    assert len(broker.log) == 2


def test_a_range_has_at_most_so_many_requests() -> None:
    broker = FakeBroker()
    partner_sink(broker, FunctionPartner(), batch_size=1).write([batch(0, 2 * RANGE_REQUESTS_MAX + 1)])
    assert [offset_next for _, offset_next, _, _ in broker.log] == [0, RANGE_REQUESTS_MAX, 2 * RANGE_REQUESTS_MAX]


@pytest.mark.parametrize("batch_size", [1, 500, 10_000_000])
def test_the_longest_range_and_the_longest_row_of_refusals_fit_into_the_metadata(batch_size: int) -> None:
    refused = tuple(range(10**15, 10**15 + REFUSED_IN_A_ROW_MAX))
    stored = Stored(10**15, (batch_size,) * 2 * RANGE_REQUESTS_MAX, refused=refused)  # with splits on the way
    text = msgspec.json.encode(PositionMetadata("A" * 22, 10**13, msgspec.json.encode(stored).decode()))
    assert len(text) < METADATA_BYTES_MAX / 2


def test_no_request_goes_out_on_an_old_proof_of_ownership(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sinks.partner.FENCE_CHECK_S", 0)
    broker = FakeBroker()

    def answer(sent: list[str], tries: int) -> httpx.Response:
        if tries == 2:  # of one range of five: another process takes over
            FakeFencedCommit(broker, partition_id()).open()
        return httpx.Response(200)

    partner = FunctionPartner(answer)
    with pytest.raises(Fenced):
        partner_sink(broker, partner, batch_size=2).write([batch(0, 10)])
    assert len(partner.sent) == 2


def test_partitions_go_side_by_side() -> None:
    both = threading.Barrier(2)

    def answer(sent: list[str], tries: int) -> httpx.Response:
        both.wait(10)  # one after another they would wait for ever
        return httpx.Response(200)

    broker, partner = FakeBroker(), FunctionPartner(answer)
    partner_sink(broker, partner, claim=(0, 1)).write([batch(0, 3), batch(0, 2, partition=partition_id(1))])
    assert sorted(partner.accepted) == ids(0, 1, 2) + ids(0, 1, partition=1)


def test_a_partition_that_is_fenced_does_not_wait_for_one_that_waits_for_the_partner() -> None:
    broker, fenced = FakeBroker(), threading.Event()

    def answer(sent: list[str], tries: int) -> httpx.Response:
        FakeFencedCommit(broker, partition_id(1)).open()
        return httpx.Response(503 if sent[0].startswith("e0") else 200)

    sink = partner_sink(broker, FunctionPartner(answer), claim=(0, 1), batch_size=1, stopping=fenced.is_set)
    with pytest.raises(Fenced):
        sink.write([batch(0, 30), batch(0, 2 * RANGE_REQUESTS_MAX, partition=partition_id(1))])
    fenced.set()


def test_an_outage_stores_what_was_acknowledged_before_it() -> None:
    """So neither kill nor stop repeats it: what was acknowledged, and what of the range is left."""
    broker, partner = FakeBroker(), FunctionPartner(lambda sent, tries: httpx.Response(200 if tries < 3 else 503))
    sink = partner_sink(broker, partner, batch_size=2, stopping=lambda: len(partner.sent) >= 5)
    with pytest.raises(Abandoned):
        sink.write([batch(0, 9)])
    assert (broker.positions[0].offset_next, broker.positions[0].metadata) == (4, '{"to":9,"events":[2,2,1]}')


def test_a_stop_in_an_outage_waits_until_every_partition_has_stored_what_was_acknowledged() -> None:
    stop = threading.Event()

    def answer(sent: list[str], tries: int) -> httpx.Response:
        if sent == ids(0):
            stop.set()
        elif sent == ids(1, partition=1):
            stop.wait(10)
        return httpx.Response(503 if sent[0].startswith("e0") else 200)

    broker, partner = FakeBroker(), FunctionPartner(answer)
    sink = partner_sink(broker, partner, claim=(0, 1), batch_size=1, stopping=stop.is_set)
    with pytest.raises(Abandoned):
        sink.write([batch(0, 3), batch(0, 4, partition=partition_id(1))])
    assert partner.accepted == ids(0, 1, 2, 3, partition=1)
    assert {number: at.offset_next for number, at in broker.positions.items()} == {0: 0, 1: 4}


def test_an_idle_batch_settles_and_then_costs_nothing() -> None:
    broker, partner = FakeBroker(), FunctionPartner()
    sink = partner_sink(broker, partner)
    sink.write([batch(0, 3)])
    for _ in range(3):
        sink.write([batch(3, 3)])
    assert broker.positions[0] == Committed(3, "{}", NOW)
    assert len(broker.log) == 2


def test_markers_without_events_move_the_position() -> None:
    broker = FakeBroker()
    partner_sink(broker, FunctionPartner()).write([batch(0, 7, [])])
    assert broker.positions[0].offset_next == 7


def test_a_stop_settles_what_was_acknowledged() -> None:
    broker, partner = FakeBroker(), FunctionPartner()
    sink = partner_sink(broker, partner, stopping=lambda: True)
    sink.write([batch(0, 3)])
    assert broker.positions[0] == Committed(3, "{}", NOW)


def test_a_stop_during_an_outage_abandons_without_moving_the_position() -> None:
    broker, partner = FakeBroker(), FunctionPartner(lambda sent, tries: httpx.Response(503))
    sink = partner_sink(broker, partner, batch_size=2, stopping=lambda: len(partner.sent) >= 3)
    with pytest.raises(Abandoned):
        sink.write([batch(0, 5)])
    assert (broker.positions[0].offset_next, broker.positions[0].metadata) == (0, '{"to":5,"events":[2,2,1]}')


def test_an_idle_position_is_renewed_after_an_hour() -> None:
    broker = FakeBroker()
    broker.positions[0] = Committed(0, "", 1_800_000_000.0 - 3600)
    sink = partner_sink(broker, FunctionPartner())
    broker.now = 1_800_000_001.0
    sink.write([batch(0, 0)])
    assert broker.positions[0] == Committed(0, "", 1_800_000_001.0)


def test_batches_below_the_position_are_skipped_and_one_that_straddles_it_is_cut() -> None:
    broker, partner = FakeBroker(), FunctionPartner()
    broker.positions[0] = Committed(5, "{}", NOW)
    sink = partner_sink(broker, partner)
    sink.write([batch(0, 3), batch(3, 5), batch(5, 5)])
    assert partner.sent == []
    sink.write([batch(3, 8)])
    assert partner.accepted == ids(5, 6, 7)


def test_a_gap_stops_the_flow_and_nothing_is_sent() -> None:
    broker, partner = FakeBroker(), FunctionPartner()
    sink = partner_sink(broker, partner)
    with pytest.raises(PositionGap, match="begins at offset 4, but sink partner still needs 3"):
        sink.write([batch(0, 3), batch(4, 6)])
    assert partner.sent == []


def test_a_batch_of_a_reader_that_lost_the_partition_is_not_sent() -> None:
    broker, partner = FakeBroker(), FunctionPartner()
    with pytest.raises(Fenced):
        partner_sink(broker, partner).write([batch(0, 3, owner="someone else")])
    assert partner.sent == []


def test_a_fenced_process_sends_nothing_more() -> None:
    broker, partner = FakeBroker(), FunctionPartner()
    sink = partner_sink(broker, partner)
    sink.write([batch(0, 3)])
    FakeFencedCommit(broker, partition_id()).open()
    with pytest.raises(Fenced):
        sink.write([batch(3, 6)])
    assert partner.accepted == ids(0, 1, 2)


def test_a_process_that_is_fenced_during_an_outage_repeats_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sinks.partner.FENCE_CHECK_S", 0)
    broker = FakeBroker()

    def answer(sent: list[str], tries: int) -> httpx.Response:
        if tries == 3:
            FakeFencedCommit(broker, partition_id()).open()
        return httpx.Response(503)

    partner = FunctionPartner(answer)
    with pytest.raises(Fenced):
        partner_sink(broker, partner).write([batch(0, 3)])
    assert len(partner.sent) == 3


def test_partitions_keep_positions_of_their_own() -> None:
    broker, partner = FakeBroker(), FunctionPartner()
    sink = partner_sink(broker, partner, claim=(0, 1))
    other = partition_id(1)
    sink.write([batch(0, 2), batch(0, 3, partition=other), batch(2, 4)])
    assert sorted(partner.accepted) == sorted(ids(0, 1, 2, 3) + ids(0, 1, 2, partition=1))
    sink.write([batch(4, 4), batch(3, 3, partition=other)])
    assert {number: at.offset_next for number, at in broker.positions.items()} == {0: 4, 1: 3}


# After a start


def in_flight(to: int, events: int | tuple[int, ...], array: bool = True) -> str:
    return msgspec.json.encode(Stored(to, events, array)).decode()


@pytest.mark.parametrize("cut", [[(3, 6), (6, 9)], [(3, 9)], [(3, 4), (4, 4), (4, 8), (8, 9)]])
def test_the_range_in_flight_goes_out_again_as_one_request_however_it_is_read(cut: list[tuple[int, int]]) -> None:
    broker, partner = FakeBroker(), FunctionPartner()
    broker.positions[0] = Committed(3, in_flight(6, 3), NOW)
    sink = partner_sink(broker, partner, batch_size=2)
    for since, until in cut:
        sink.write([batch(since, until)])
    assert partner.sent[0].ids == ids(3, 4, 5)
    assert partner.sent[0].key == idempotency_key(partition_id(), [3, 4, 5])
    assert partner.accepted == ids(*range(3, 9))


def test_the_range_in_flight_keeps_its_shape_when_the_batch_size_changes() -> None:
    broker, partner = FakeBroker(), FunctionPartner()
    broker.positions[0] = Committed(0, in_flight(1, 1, array=False), NOW)
    partner_sink(broker, partner, batch_size=500).write([batch(0, 2)])
    assert [isinstance(json.loads(sent.body), list) for sent in partner.sent] == [False, True]
    broker.positions[0] = Committed(0, in_flight(2, 2), NOW)
    partner.sent.clear()
    partner_sink(broker, partner, batch_size=1).write([batch(0, 3)])
    assert [isinstance(json.loads(sent.body), list) for sent in partner.sent] == [True, False]


@pytest.mark.parametrize("cut", [[(3, 6), (6, 15)], [(3, 15)], [(3, 9), (9, 12), (12, 15)]])
def test_a_range_of_several_requests_goes_out_again_request_by_request(cut: list[tuple[int, int]]) -> None:
    broker, partner = FakeBroker(), FunctionPartner()
    broker.positions[0] = Committed(3, in_flight(11, (4, 1, 3)), NOW)
    sink = partner_sink(broker, partner, batch_size=2)
    for since, until in cut:
        sink.write([batch(since, until)])
    assert [sent.ids for sent in partner.sent[:3]] == [ids(3, 4, 5, 6), ids(7), ids(8, 9, 10)]
    assert partner.sent[1].key == idempotency_key(partition_id(), [7])
    assert partner.accepted == ids(*range(3, 15))


def test_a_range_as_the_version_before_stored_it_is_repeated_as_one_request() -> None:
    broker, partner = FakeBroker(), FunctionPartner()
    broker.positions[0] = Committed(3, '{"to":6,"events":3,"refused":[1]}', NOW)
    partner_sink(broker, partner, batch_size=2).write([batch(3, 7)])
    assert [sent.ids for sent in partner.sent] == [ids(3, 4, 5), ids(6)]


def test_the_version_before_stops_at_a_range_of_several_requests_and_understands_one() -> None:
    """It would send it as one request, under a key that the partner has not seen."""

    class StoredBefore(msgspec.Struct, frozen=True, omit_defaults=True):
        to: int | None = None
        events: int = 0
        array: bool = True
        refused: tuple[int, ...] = ()

    assert msgspec.json.decode(in_flight(6, 3), type=StoredBefore).events == 3
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(in_flight(6, (2, 1)), type=StoredBefore)


def test_a_repeated_range_with_other_events_stops_the_flow() -> None:
    broker, partner = FakeBroker(), FunctionPartner()
    broker.positions[0] = Committed(0, in_flight(3, 3), NOW)
    with pytest.raises(FlowStopped, match="went to the partner with 3 events and now hold 2"):
        partner_sink(broker, partner).write([batch(0, 3, [0, 2])])
    assert partner.sent == []


def test_metadata_of_another_version_stops_the_flow() -> None:
    broker = FakeBroker()
    broker.positions[0] = Committed(0, "[]", NOW)
    with pytest.raises(FlowStopped, match="--position partner=OFFSET"):
        partner_sink(broker, FunctionPartner())


# What is refused


@pytest.mark.parametrize("status", [400, 422])
def test_the_culprit_alone_becomes_a_dead_letter(status: int) -> None:
    broker, partner = FakeBroker(), FunctionPartner(refusing("e0-5", status=status))
    sink = partner_sink(broker, partner, batch_size=8)
    sink.write([batch(0, 8)])
    sink.write([batch(8, 8)])
    assert partner.accepted == ids(0, 1, 2, 3, 4, 6, 7)
    [letter] = broker.letters
    assert (letter.key, letter.value) == (b"k5", b"v5")
    headers = {name: value.decode() for name, value in letter.headers}
    assert headers == {
        "reason": "refused",
        "detail": f"The partner answered {status} to this event alone: no. Correct the event, then replay it.",
        "sink": "partner",
        "topic": "events",
        "partition": "0",
        "offset": "5",
        "rejected_at": "2027-01-15T08:00:01.000Z",
        "kafka_timestamp": "1800000000000",
        "event_id": "e0-5",
    }
    assert broker.positions[0] == Committed(8, "{}", NOW)


def test_letter_and_position_are_one_transaction_after_all_before_and_before_anything_behind() -> None:
    broker = FakeBroker()
    steps: list[str] = []
    refuse = refusing("e0-2")

    def answer(sent: list[str], tries: int) -> httpx.Response:
        response = refuse(sent, tries)
        steps.append(f"{','.join(sent)} {response.status_code}")
        return response

    def commit(partition: int, offset_next: int, extra: str) -> None:
        steps.append(f"at {offset_next} {extra}")

    broker.before_commit = commit
    partner_sink(broker, FunctionPartner(answer), batch_size=4).write([batch(0, 4)])
    assert steps == [
        'at 0 {"to":4,"events":4}',
        "e0-0,e0-1,e0-2,e0-3 422",
        'at 0 {"to":4,"events":[2,2]}',
        "e0-0,e0-1 200",
        "e0-2,e0-3 422",
        'at 2 {"to":4,"events":[1,1]}',
        "e0-2 422",
        'at 3 {"to":4,"events":1,"refused":[2]}',
        "e0-3 200",
    ]
    assert [entry for entry in broker.log if entry[3]] == [(0, 3, '{"to":4,"events":1,"refused":[2]}', 1)]


def test_413_splits_and_alone_it_is_too_large() -> None:
    def answer(sent: list[str], tries: int) -> httpx.Response:
        return httpx.Response(413 if len(sent) > 2 or "e0-6" in sent else 200)

    broker, partner = FakeBroker(), FunctionPartner(answer)
    partner_sink(broker, partner, batch_size=8).write([batch(0, 8)])
    assert partner.accepted == ids(0, 1, 2, 3, 4, 5, 7)
    assert [dict(letter.headers)["reason"] for letter in broker.letters] == [b"too_large"]


def test_409_is_an_acceptance() -> None:
    broker, partner = FakeBroker(), FunctionPartner(lambda sent, tries: httpx.Response(409))
    sink = partner_sink(broker, partner)
    sink.write([batch(0, 3)])
    sink.write([batch(3, 3)])
    assert broker.letters == []
    assert broker.positions[0].offset_next == 3
    assert len(partner.sent) == 1


@pytest.mark.parametrize("status", [301, 401, 403, 404, 408, 425, 429, 500, 503])
def test_what_is_not_about_the_event_pauses_and_makes_no_dead_letter(status: int) -> None:
    def answer(sent: list[str], tries: int) -> httpx.Response:
        return httpx.Response(status if tries <= 8 else 200)

    broker, partner = FakeBroker(), FunctionPartner(answer)
    sink = partner_sink(broker, partner)
    sink.write([batch(0, 3)])
    assert partner.accepted == ids(0, 1, 2)
    assert len({(sent.key, sent.body) for sent in partner.sent}) == 1
    assert broker.letters == []
    assert sink.last_error is None


# Twenty in a row


def all_refused(until: int = 10**9) -> Callable[[list[str], int], httpx.Response]:
    return lambda sent, tries: httpx.Response(422 if tries <= until else 200, text="all wrong")


def test_the_twentieth_refusal_in_a_row_opens_the_breaker_and_is_no_dead_letter() -> None:
    broker, partner = FakeBroker(), FunctionPartner(all_refused())
    sink = partner_sink(broker, partner, batch_size=1, stopping=lambda: len(partner.sent) >= 30)
    with structlog.testing.capture_logs() as logs, pytest.raises(Abandoned):
        sink.write([batch(0, 40)])
    assert refused_offsets(broker) == list(range(19))
    assert {sent.ids[0] for sent in partner.sent[19:]} == {"e0-19"}
    assert len({sent.key for sent in partner.sent[19:]}) == 1
    assert sink.breaker_open
    assert "operations.dead_letters pass partner 0 19" in str(sink.last_error)
    [opened] = [entry for entry in logs if entry["event"] == "partner_breaker_opened"]
    assert all(f"0:{offset}" in opened["why"] for offset in range(19))


def test_an_acceptance_between_starts_the_count_anew() -> None:
    broker = FakeBroker()
    wrong = [event_id(0, offset) for offset in range(50) if offset % 19 != 18]
    partner = FunctionPartner(refusing(*wrong))
    partner_sink(broker, partner, batch_size=1).write([batch(0, 50)])
    assert len(broker.letters) == len(wrong)
    assert partner.accepted == ids(18, 37)


def test_the_event_that_opened_the_breaker_is_retried_until_accepted() -> None:
    broker, partner = FakeBroker(), FunctionPartner(all_refused(until=25))
    sink = partner_sink(broker, partner, batch_size=1)
    sink.write([batch(0, 22)])
    assert refused_offsets(broker) == list(range(19))
    assert partner.accepted == ids(19, 20, 21)
    assert not sink.breaker_open
    assert sink.last_error is None


def test_an_event_passed_by_hand_is_a_dead_letter_and_the_next_one_is_not() -> None:
    broker, partner = FakeBroker(), FunctionPartner(all_refused())
    asked: list[int] = []

    def passed(partition: object, offset: int) -> bool:
        asked.append(offset)
        return offset == 19 and len(asked) > 3

    sink = partner_sink(broker, partner, batch_size=1, passed=passed, stopping=lambda: len(asked) > 8)
    with pytest.raises(Abandoned):
        sink.write([batch(0, 40)])
    assert refused_offsets(broker) == list(range(20))
    assert sink.breaker_open
    assert broker.positions[0].offset_next == 20


def test_passing_many_by_hand_does_not_outgrow_the_metadata() -> None:
    broker, partner = FakeBroker(), FunctionPartner(all_refused())
    sink = partner_sink(broker, partner, batch_size=1, passed=lambda partition, offset: True)
    sink.write([batch(0, 60)])
    assert refused_offsets(broker) == list(range(60))
    assert sink.breaker_open
    assert max(len(extra) for _, _, extra, _ in broker.log) < 150


def test_restarts_do_not_forget_the_count() -> None:
    broker, partner = FakeBroker(), FunctionPartner(all_refused())
    for start in range(0, 30, 5):
        sink = partner_sink(broker, partner, batch_size=1, stopping=lambda: len(partner.sent) > 60)
        with contextlib.suppress(Abandoned):
            sink.write([batch(broker.positions[0].offset_next, start + 5)])
    assert refused_offsets(broker) == list(range(19))


def test_a_count_of_another_partition_is_forgotten_there_too() -> None:
    """Refusals of partition 1, then an acceptance in partition 0: a restart begins to count at zero."""
    broker = FakeBroker()
    wrong = [event_id(1, offset) for offset in range(3)]
    sink = partner_sink(broker, FunctionPartner(refusing(*wrong)), claim=(0, 1))
    other = partition_id(1)
    sink.write([batch(0, 3, partition=other)])
    assert "refused" in broker.positions[1].metadata
    sink.write([batch(0, 1), batch(3, 3, partition=other)])
    sink.write([batch(3, 3, partition=other)])
    assert broker.positions[1] == Committed(3, "{}", NOW)


def test_a_batch_that_the_partner_refuses_whole_ends_at_the_twentieth_too() -> None:
    broker, partner = FakeBroker(), FunctionPartner(all_refused())
    sink = partner_sink(broker, partner, batch_size=500, stopping=lambda: len(partner.sent) > 200)
    with pytest.raises(Abandoned):
        sink.write([batch(0, 500)])
    assert refused_offsets(broker) == list(range(19))


# Any interruption


class Killed(BaseException):
    """The process is gone, at this step."""


class IdempotentPartner(FunctionPartner):
    """Honours keys: `effects` has one entry per event and key; `dies` is asked before and after each effect."""

    def __init__(self, answer: Callable[[list[str], int], httpx.Response], dies: Callable[[], None]) -> None:
        super().__init__(answer)
        self.dies = dies
        self.bodies: dict[str, bytes] = {}
        self.effects: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        key, body = request.headers["idempotency-key"], request.content
        self.dies()
        assert self.bodies.get(key, body) == body, "the same key came with another body"
        if key in self.bodies:
            return httpx.Response(200)
        response = super().__call__(request)
        if response.is_success:
            self.bodies[key] = body
            self.effects += self.sent[-1].ids
        self.dies()
        return response


def run_until_done(
    kill_at: set[int], seed: int, answer: Callable[[list[str], int], httpx.Response]
) -> tuple[FakeBroker, IdempotentPartner, int]:
    """Offsets 0..39 (some are gaps, some addressed to another sink), read in random cuts; killed at these steps."""
    step = 0

    def dies() -> None:
        nonlocal step
        step += 1
        if step in kill_at:
            raise Killed

    random_cut = random.Random(seed)
    broker = FakeBroker(before_commit=lambda partition, offset_next, extra: dies())
    partner = IdempotentPartner(answer, dies)
    sizes = [7, 1, 5, 500]
    for attempt in range(len(kill_at) + 1):
        try:
            sink = partner_sink(broker, partner, batch_size=sizes[attempt % len(sizes)])
            at = max(0, broker.positions[0].offset_next - 3)
            while at < 40:
                until = min(40, at + random_cut.randint(0, 12))
                sink.write([events(at, until)])
                at = until
            sink.write([events(40, 40)])
            break
        except Killed:
            continue
    return broker, partner, step


def events(since: int, until: int) -> EventBatch:
    present = [offset for offset in range(since, until) if offset % 11 != 4]
    return batch(since, until, present, targets={offset: "bigquery" for offset in present if offset % 9 == 5})


WANTED: Sequence[str] = ids(*(o for o in range(40) if o % 11 != 4 and o % 9 != 5))
REFUSED = {"e0-12", "e0-13", "e0-30"}
STEPS = run_until_done(set(), 0, refusing(*REFUSED))[2]


@pytest.mark.parametrize("kill_at", range(1, STEPS + 1))
def test_a_kill_at_any_step_changes_neither_effects_nor_letters(kill_at: int) -> None:
    """Before each transaction, before and after each effect; then once more, two steps into the next life."""
    broker, partner, _ = run_until_done({kill_at, kill_at + 2}, kill_at, refusing(*REFUSED))
    assert partner.effects == [each for each in WANTED if each not in REFUSED]
    assert [event_id(0, offset) for offset in refused_offsets(broker)] == [each for each in WANTED if each in REFUSED]
    assert broker.positions[0].offset_next == 40


def test_the_check_above_can_fail() -> None:
    """Without the range in flight in Kafka, a kill between effect and acknowledgement doubles events."""
    doubled = 0
    for kill_at in range(1, STEPS + 1):
        broker, partner = FakeBroker(), None
        step = 0

        def dies() -> None:
            nonlocal step
            step += 1
            if step == kill_at:  # noqa: B023
                raise Killed

        partner = IdempotentPartner(refusing(), dies)
        for size in (7, 5):
            sink: PartnerSink = partner_sink(broker, partner, batch_size=size)
            try:
                sink.write([events(broker.positions[0].offset_next, 40), events(40, 40)])
                break
            except Killed:
                at = broker.positions[0]
                broker.positions[0] = Committed(at.offset_next, "{}", at.renewed_at)
        doubled += len(partner.effects) != len(set(partner.effects))
    assert doubled > 0
