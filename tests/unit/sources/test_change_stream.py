"""Groups of rows from a stream: where they end, what their position says, and how a restart goes on."""

import struct
from collections.abc import Iterable

import msgspec
import numpy as np
import pytest

from sources import change_stream
from sources.change_position import ChangePosition, decoded
from sources.change_stream import GROUP_EVERY_S, CapturedTable, Changes, ChangeStream
from sources.id_set import IdSet
from sources.pgoutput import EPOCH_S
from sources.positions import FlowStopped

TABLE = CapturedTable(("public", "events"), key="kind", order_by="id")
START = ChangePosition("sys", 1, "db", "stream", "0/64")


def begin(lsn: int, since_2000_us: int = 0) -> bytes:
    return b"B" + struct.pack("!QqI", lsn, since_2000_us, 1)


def commit(lsn: int) -> bytes:
    return b"C\0" + struct.pack("!QQq", lsn, lsn + 8, 0)


def rows(*ids: int, oid: int = 7) -> list[bytes]:
    return [
        b"I" + struct.pack("!IcHcI", oid, b"N", 2, b"t", len(str(i))) + str(i).encode() + b"t\0\0\0\1k" for i in ids
    ]


def relation(oid: int = 7, name: bytes = b"events", key: bytes = b"kind") -> bytes:
    head = b"R" + struct.pack("!I", oid) + b"public\0" + name + b"\0d" + struct.pack("!H", 2)
    return head + b"\1id\0" + struct.pack("!Ii", 20, -1) + b"\1" + key + b"\0" + struct.pack("!Ii", 25, -1)


class Script:
    """A stream that says these messages; None: it is dry for a moment."""

    def __init__(self, messages: Iterable[bytes | None], sent_lsn: int = 0) -> None:
        self._messages = iter([relation(), *messages])
        self.sent_lsn = sent_lsn
        self.now = 0.0

    def receive(self) -> bytes | None:
        self.now += 0.0001
        return next(self._messages, None)

    def wait(self, seconds: float) -> None:
        self.now += min(seconds, 0.02)

    def confirm(self, lsn: int) -> None: ...

    def ask_for_news(self) -> None:
        self.sent_lsn = 10_000

    def clock(self) -> float:
        return self.now


def stream(messages: Iterable[bytes | None], position: ChangePosition = START, sent_lsn: int = 0) -> ChangeStream:
    script = Script(messages, sent_lsn)
    return ChangeStream(script, TABLE, position, script.clock)


def ids(changes: Changes | None) -> list[int]:
    assert changes is not None
    return [msgspec.json.decode(value)["id"] for _, value in changes.records]


def listed(ids: IdSet) -> list[int]:
    return [each for each in range(100) if ids.holds(np.array([each]))[0]]


def position(changes: Changes | None) -> ChangePosition:
    assert changes is not None
    return decoded(changes.position)


def test_waiting_transactions_make_one_group_that_ends_behind_the_last_commit() -> None:
    it = stream([begin(200), *rows(1, 2), commit(200), begin(300), *rows(3), commit(300)])
    group = it.group()
    assert ids(group) == [1, 2, 3]
    assert position(group) == START.streaming(308, highest=3)
    assert it.group() is None


def test_transactions_soon_after_a_group_make_one_together() -> None:
    script = Script([begin(200), *rows(1), commit(200), None, begin(300), *rows(2), commit(300)])
    changes = ChangeStream(script, TABLE, START, script.clock)
    assert ids(changes.group()) == [1, 2]
    assert GROUP_EVERY_S <= script.now < GROUP_EVERY_S + 0.02


def test_it_tells_how_far_it_has_read_while_there_is_more_to_read() -> None:
    it = stream([begin(200, 5_000_000), *rows(1), commit(200), begin(300, 9_000_000), *rows(2), None, None, *rows(3)])
    assert it.committed_at is None
    assert it.group() is None  # a transaction is not whole
    assert it.committed_at == EPOCH_S + 9

    it = stream([begin(200, 5_000_000), *rows(1), commit(200)])
    assert ids(it.group()) == [1]
    assert it.committed_at == EPOCH_S + 5  # nobody knows yet whether there is more
    assert it.group() is None
    assert it.committed_at is None


def test_a_transaction_after_a_pause_waits_for_no_other() -> None:
    script = Script([begin(200), *rows(1), commit(200), None, begin(300), *rows(2), commit(300)])
    changes = ChangeStream(script, TABLE, START, script.clock)
    script.now += 1
    assert ids(changes.group()) == [1]


def test_a_dry_stream_within_a_transaction_ends_no_group() -> None:
    it = stream([begin(200), *rows(1), None, None, *rows(2), None, commit(200)])
    assert ids(it.group()) == [1, 2]


def test_a_stall_within_a_transaction_keeps_what_was_read_for_later() -> None:
    it = stream([begin(200), *rows(1), *[None] * 4, *rows(2), commit(200)])
    assert it.group() is None
    assert ids(it.group()) == [1, 2]


def test_a_long_transaction_is_cut_and_its_position_counts_the_rows_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(change_stream, "GROUP_ROWS_MAX", 2)
    it = stream([begin(200), *rows(1, 2, 3, 4, 5), commit(200)])
    first, second, third = it.group(), it.group(), it.group()
    assert [ids(first), ids(second), ids(third)] == [[1, 2], [3, 4], [5]]
    assert position(first) == START.streaming(100, partly=200, sent=2, highest=2)
    assert position(second) == START.streaming(100, partly=200, sent=4, highest=4)
    assert position(third) == START.streaming(208, highest=5)


@pytest.mark.parametrize("sent", range(6))
def test_after_any_cut_the_rest_comes_once(sent: int) -> None:
    cut = START.streaming(100, partly=200, sent=sent)
    it = stream([begin(200), *rows(1, 2, 3, 4, 5), commit(200), begin(300), *rows(6), commit(300)], cut)
    assert ids(it.group()) == [*range(sent + 1, 6), 6]


def test_a_second_cut_of_a_transaction_counts_from_its_first_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(change_stream, "GROUP_ROWS_MAX", 2)
    it = stream([begin(200), *rows(1, 2, 3, 4, 5), commit(200)], START.streaming(100, partly=200, sent=2))
    group = it.group()
    assert ids(group) == [3, 4]
    assert position(group) == START.streaming(100, partly=200, sent=4, highest=4)


def test_the_transaction_that_was_partly_sent_must_come() -> None:
    it = stream([begin(300), *rows(1), commit(300)], START.streaming(100, partly=200, sent=2))
    with pytest.raises(FlowStopped, match="no transaction that committed at 0/C8"):
        it.group()


def test_a_transaction_with_fewer_rows_than_were_sent_stops_the_flow() -> None:
    it = stream([begin(200), *rows(1), commit(200)], START.streaming(100, partly=200, sent=2))
    with pytest.raises(FlowStopped, match="has 1 rows, but 2 were sent"):
        it.group()


def test_other_tables_are_passed_over_and_move_the_position() -> None:
    it = stream([begin(200), relation(8, b"content"), *rows(9, oid=8), *rows(1), *rows(9, oid=8), commit(200)])
    group = it.group()
    assert ids(group) == [1]
    assert position(group) == START.streaming(208, highest=1)


def test_a_table_without_its_key_column_stops_the_flow() -> None:
    it = stream([begin(200), relation(key=b"sort"), *rows(1)])
    with pytest.raises(FlowStopped, match="no longer sends column kind"):
        it.group()


def test_an_idle_table_moves_its_position_every_ten_seconds() -> None:
    it = stream([], sent_lsn=5000)
    assert it.group(wait_s=1) is None
    group = it.group(wait_s=10)
    assert ids(group) == []
    assert position(group) == START.streaming(5000)
    assert it.group(wait_s=20) is None  # nothing new


def test_ids_before_an_lsn_are_those_of_transactions_that_committed_before_it() -> None:
    messages = [begin(200), *rows(1, 2), commit(200), None, begin(300), *rows(3), commit(300), begin(400), *rows(4)]
    assert listed(stream(messages).ids_before(400, lambda: False)) == [1, 2, 3]


def test_ids_before_an_lsn_end_where_the_server_has_nothing_more() -> None:
    assert listed(stream([begin(200), *rows(1), commit(200)]).ids_before(400, lambda: False)) == [1]
