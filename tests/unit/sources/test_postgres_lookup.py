"""What a refresh finds to be new, changed or gone, and how rows come from COPY's lines."""

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sources.postgres_lookup import columns_of, differences

SCHEMA = pa.schema([("key", pa.string()), ("title", pa.string()), ("length", pa.int64())])  # type: ignore[arg-type]
Rows = dict[str, tuple[str | None, int | None]]
tables = st.dictionaries(
    st.sampled_from("abcdefgh"),
    st.tuples(st.sampled_from(["", "one", "two", None]), st.sampled_from([0, 1, None])),
)


def batch(rows: Rows) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(
        [{"key": key, "title": row[0], "length": row[1]} for key, row in rows.items()], SCHEMA
    )


def rows_of(found: pa.RecordBatch) -> Rows:
    return {row["key"]: (row["title"], row["length"]) for row in found.to_pylist()}


@given(known=tables, found=tables)
def test_differences_are_the_rows_that_are_new_or_changed_and_the_keys_that_are_gone(known: Rows, found: Rows) -> None:
    changed, gone = differences(batch(known), batch(found))
    assert rows_of(changed) == {key: row for key, row in found.items() if known.get(key) != row}
    assert set(gone) == known.keys() - found.keys()


@pytest.mark.parametrize(
    ("lines", "rows"),
    [
        (b"", []),
        (b"a,one,1\nb,two,2\n", [("a", "one", 1), ("b", "two", 2)]),
        (b"a,,\n", [("a", None, None)]),
        (b'a,"",0\n', [("a", "", 0)]),
        (b'a,"one, ""two""\nthree",1\n', [("a", 'one, "two"\nthree', 1)]),
        ("a,Été \\N null,1\n".encode(), [("a", "Été \\N null", 1)]),
    ],
)
def test_lines_of_copy_are_read_as_postgres_means_them(lines: bytes, rows: list[tuple[Any, ...]]) -> None:
    found = pa.Table.from_batches(columns_of(lines, SCHEMA), SCHEMA)
    assert [tuple(row.values()) for row in found.to_pylist()] == rows


def test_a_line_may_be_longer_than_a_block_of_the_reader() -> None:
    (found,) = columns_of(b"a," + b"x" * 3_000_000 + b",1\n", SCHEMA)
    assert len(found.column("title")[0].as_py() or "") == 3_000_000
