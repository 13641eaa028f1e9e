"""A PostgreSQL row as a JSON object, from the text form of its values."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from sources.pgoutput import Column

BOOL, INT2, INT4, INT8, JSON, JSONB, TIMESTAMPTZ = 16, 21, 23, 20, 114, 3802, 1184  # oids in pg_type

_encode = msgspec.json.Encoder().encode


class RowJson:
    """Rows of one table in one shape: `{"column": value, ...}` in the order of the columns.

    Integers and booleans are JSON's own, json and jsonb are embedded byte for byte, a timestamptz is ISO 8601 in UTC
    with six digits and Z, null is null; all else is the text that PostgreSQL prints.
    """

    def __init__(self, columns: Sequence[Column], key: str) -> None:
        """key  the column whose text becomes the record's key. Raises ValueError where there is none of that name."""
        self._names = [column.name for column in columns]
        self._forms = [_form(column.type_oid) for column in columns]
        self._key = self._names.index(key)

    def record(self, values: Sequence[bytes | None]) -> tuple[bytes | None, bytes]:
        """Key (None for null) and JSON object of one row."""
        shown = [None if value is None else form(value) for form, value in zip(self._forms, values, strict=True)]
        return values[self._key], _encode(dict(zip(self._names, shown, strict=True)))


def _form(type_oid: int) -> Callable[[bytes], Any]:
    if type_oid in (INT2, INT4, INT8, JSON, JSONB):
        return msgspec.Raw
    if type_oid == BOOL:
        return _bool
    if type_oid == TIMESTAMPTZ:
        return utc_text
    return bytes.decode


def _bool(value: bytes) -> bool:
    return value == b"t"


def utc_text(value: bytes) -> str:
    """b'2025-08-10 14:30:25.5+00' -> '2025-08-10T14:30:25.500000Z'. The session prints UTC.

    infinity and years before Christ have no such form: they stay as they are, and whoever parses them refuses them."""
    text = value.decode()
    if not text.endswith("+00"):
        return text
    moment, _, fraction = text[:-3].replace(" ", "T", 1).partition(".")
    return f"{moment}.{fraction:0<6}Z"
