"""The decoder and the JSON of a row, on bytes in the form that PostgreSQL sends (the real ones: integration tests)."""

import struct

import msgspec
import pytest

from sources.pgoutput import Begin, Column, Commit, Decoder, Insert, Relation, lsn_number, lsn_text
from sources.row_json import RowJson, utc_text


def relation(oid: int, name: str, columns: list[tuple[str, int]]) -> bytes:
    described = b"".join(b"\x01" + column.encode() + b"\0" + struct.pack("!Ii", type_, -1) for column, type_ in columns)
    head = b"R" + struct.pack("!I", oid) + b"public\0" + name.encode() + b"\0d" + struct.pack("!H", len(columns))
    return head + described


def row(oid: int, values: list[bytes | None], kind: bytes = b"I") -> bytes:
    cells = b"".join(b"n" if value is None else b"t" + struct.pack("!I", len(value)) + value for value in values)
    return kind + struct.pack("!I", oid) + b"N" + struct.pack("!H", len(values)) + cells


EVENTS = [("id", 20), ("content_id", 2950), ("event_ts", 1184), ("raw_payload", 3802)]


def test_a_transaction_is_decoded_from_begin_to_commit() -> None:
    decoder = Decoder()
    assert decoder.decode(b"B" + struct.pack("!QqI", 0x16B3748, 1_500_000, 801)) == Begin(0x16B3748, 946_684_801.5)
    assert decoder.decode(relation(7, "events", EVENTS)) is None
    change = decoder.decode(row(7, [b"1", None, b"2025-08-10 14:30:25+00", b"{}"]))
    columns = tuple(Column(name, type_) for name, type_ in EVENTS)
    assert change == Insert(Relation("public", "events", columns), [b"1", None, b"2025-08-10 14:30:25+00", b"{}"])
    assert decoder.decode(b"C\0" + struct.pack("!QQq", 0x16B3748, 0x16B3778, 1)) == Commit(0x16B3748, 0x16B3778)


def test_a_relation_that_comes_again_has_its_new_columns() -> None:
    decoder = Decoder()
    decoder.decode(relation(7, "events", EVENTS))
    decoder.decode(relation(7, "events", [*EVENTS, ("source", 25)]))
    change = decoder.decode(row(7, [b"1", None, b"2025-08-10 14:30:25+00", None, b"web"]))
    assert isinstance(change, Insert)
    assert change.relation.columns[-1] == Column("source", 25)
    assert change.values[-1] == b"web"


def test_tables_are_told_apart() -> None:
    decoder = Decoder()
    decoder.decode(relation(7, "events", EVENTS))
    decoder.decode(relation(8, "content", [("id", 2950)]))
    change = decoder.decode(row(8, [b"x"]))
    assert isinstance(change, Insert)
    assert change.relation.name == "content"


@pytest.mark.parametrize(
    "message",
    [
        b"U" + struct.pack("!I", 7) + b"N" + struct.pack("!H", 1) + b"u",  # an update that left a TOAST value alone
        b"D" + struct.pack("!I", 7) + b"K" + struct.pack("!H", 1) + b"n",
        b"T" + struct.pack("!IBI", 1, 0, 7),
        b"Y" + struct.pack("!I", 9) + b"public\0kind\0",
        b"O" + struct.pack("!Q", 1) + b"origin\0",
    ],
)
def test_what_inserts_do_not_need_is_passed_over(message: bytes) -> None:
    assert Decoder().decode(message) is None


def test_an_insert_never_lacks_a_value() -> None:
    decoder = Decoder()
    decoder.decode(relation(7, "events", [("raw_payload", 3802)]))
    with pytest.raises(ValueError, match="kind 'u'"):
        decoder.decode(b"I" + struct.pack("!I", 7) + b"N" + struct.pack("!H", 1) + b"u")


def test_a_row_becomes_json_in_the_order_of_its_columns() -> None:
    columns = [Column("id", 20), Column("content_id", 2950), Column("event_type", 25), Column("event_ts", 1184)]
    columns += [Column("duration_ms", 23), Column("raw_payload", 3802), Column("live", 16), Column("price", 1700)]
    content = b"123e4567-e89b-12d3-a456-426614174000"
    values = [b"9223372036854775807", content, 'say "é"\n'.encode(), b"2025-08-10 14:30:25.5+00", b"-1"]
    key, value = RowJson(columns, "content_id").record([*values, b'{"a": 1.50, "b": 1e400}', b"t", b"1.10"])
    assert key == content
    assert value.decode() == (
        '{"id":9223372036854775807,"content_id":"123e4567-e89b-12d3-a456-426614174000","event_type":"say \\"é\\"\\n",'
        '"event_ts":"2025-08-10T14:30:25.500000Z","duration_ms":-1,"raw_payload":{"a": 1.50, "b": 1e400},'
        '"live":true,"price":"1.10"}'
    )


def test_a_null_key_is_none_and_nulls_are_null() -> None:
    key, value = RowJson([Column("id", 20), Column("content_id", 2950)], "content_id").record([b"1", None])
    assert key is None
    assert msgspec.json.decode(value) == {"id": 1, "content_id": None}


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        (b"2025-08-10 14:30:25.123456+00", "2025-08-10T14:30:25.123456Z"),
        (b"2025-08-10 14:30:25+00", "2025-08-10T14:30:25.000000Z"),
        (b"2025-08-10 14:30:25.03+00", "2025-08-10T14:30:25.030000Z"),
        (b"infinity", "infinity"),
        (b"0044-03-15 12:00:00+00 BC", "0044-03-15 12:00:00+00 BC"),
    ],
)
def test_timestamps_are_iso_in_utc_with_six_digits(printed: bytes, shown: str) -> None:
    assert utc_text(printed) == shown


def test_positions_in_the_log_read_as_postgresql_prints_them() -> None:
    assert lsn_text(0x2_016B_3748) == "2/16B3748"
    assert lsn_number("2/16B3748") == 0x2_016B_3748
    assert lsn_number("0/0") == 0
