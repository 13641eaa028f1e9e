"""The messages of PostgreSQL's logical replication plugin `pgoutput`, protocol version 1, as far as inserts need them.

Source: PostgreSQL documentation, "Logical Replication Message Formats". Values are the bytes of PostgreSQL's text form.
"""

from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple

BEGIN, COMMIT, INSERT, RELATION = b"BCIR"  # one byte each, as numbers
NULL, TEXT = b"nt"
EPOCH_S = 946_684_800  # PostgreSQL's own, 2000-01-01, in seconds since 1970

_BEGIN = Struct("!cQqI")  # kind, LSN of the commit record, commit time, transaction id
_COMMIT = Struct("!cBQQq")  # kind, flags, LSN of the commit record, LSN behind it, commit time
_INSERT = Struct("!cIcH")  # kind, relation, 'N', number of columns
_LENGTH = Struct("!I")
_COLUMN_TYPE = Struct("!Ii")  # type, modifier


@dataclass(frozen=True, slots=True)
class Column:
    """A published column; `type_oid` as in pg_type."""

    name: str
    type_oid: int


@dataclass(frozen=True, slots=True)
class Relation:
    """A table as it is at this point of the stream: sent before its first row and again after ALTER TABLE."""

    schema: str
    name: str
    columns: tuple[Column, ...]


class Begin(NamedTuple):
    """A transaction begins; it committed at `commit_lsn`. Transactions come whole, in commit order.

    committed_at  by the server's clock, seconds since 1970"""

    commit_lsn: int
    committed_at: float


class Commit(NamedTuple):
    """The transaction is complete; `end_lsn` is the first byte behind its commit record."""

    commit_lsn: int
    end_lsn: int


class Insert(NamedTuple):
    """A new row: one value per column of the relation, None for null."""

    relation: Relation
    values: list[bytes | None]


class Decoder:
    """Remembers the relations of one connection: a new connection needs a new decoder."""

    def __init__(self) -> None:
        self._relations: dict[int, Relation] = {}

    def decode(self, message: bytes) -> Begin | Commit | Insert | None:
        """One message. None: a relation, which is remembered, or one that inserts do not need (update, delete,
        truncate, type, origin)."""
        kind = message[0]
        if kind == INSERT:
            return self._insert(message)
        if kind == BEGIN:
            _, commit_lsn, since_2000_us, _ = _BEGIN.unpack_from(message)
            return Begin(commit_lsn, EPOCH_S + since_2000_us / 1e6)
        if kind == COMMIT:
            _, _, commit_lsn, end_lsn, _ = _COMMIT.unpack_from(message)
            return Commit(commit_lsn, end_lsn)
        if kind == RELATION:
            self._remember(message)
        return None

    def _insert(self, message: bytes) -> Insert:
        _, oid, _, count = _INSERT.unpack_from(message)
        at = _INSERT.size
        length_at = _LENGTH.unpack_from
        values: list[bytes | None] = []
        for _ in range(count):
            kind = message[at]
            if kind == TEXT:
                start = at + 5
                at = start + length_at(message, at + 1)[0]
                values.append(message[start:at])
            elif kind == NULL:
                values.append(None)
                at += 1
            else:  # 'u', a TOAST value left as it was, occurs in updates only; 'b', binary, was not asked for
                raise ValueError(
                    f"an inserted row holds a value of kind {chr(kind)!r}, which pgoutput never sends here"
                )
        return Insert(self._relations[oid], values)

    def _remember(self, message: bytes) -> None:
        (oid,) = _LENGTH.unpack_from(message, 1)
        schema, at = _text(message, 5)
        name, at = _text(message, at)
        count = int.from_bytes(message[at + 1 : at + 3], "big")  # behind the replica identity
        at += 3
        columns = []
        for _ in range(count):
            column, at = _text(message, at + 1)  # behind the flags
            columns.append(Column(column, _COLUMN_TYPE.unpack_from(message, at)[0]))
            at += _COLUMN_TYPE.size
        self._relations[oid] = Relation(schema or "pg_catalog", name, tuple(columns))


def _text(message: bytes, at: int) -> tuple[str, int]:
    """A text that ends with a zero byte, and what follows it."""
    end = message.index(0, at)
    return message[at:end].decode(), end + 1


def lsn_text(lsn: int) -> str:
    """A position in the write-ahead log in PostgreSQL's own form: 24023128 -> '0/16E9058'."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def lsn_number(text: str) -> int:
    """'0/16E9058' -> 24023128."""
    high, _, low = text.partition("/")
    return int(high, 16) << 32 | int(low, 16)
