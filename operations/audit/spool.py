"""Fingerprints of rows on disk, a bucket of keys at a time: millions of rows are compared in the memory of a few.

The key of a row is its event id as 64 bits: an integer is mixed reversibly, so that its name comes back from the key;
any other id is hashed, and its text kept beside. Keys are good for one process: the hash is Python's own.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Rows = npt.NDArray[Any]  # of ROW
Keys = npt.NDArray[np.uint64]
Flags = npt.NDArray[np.uint32]

# stamp: Kafka timestamp, milliseconds; partition, offset: where the record lies in the topic. -1: not known.
ROW: Final = np.dtype(
    [("key", "<u8"), ("print", "<u8"), ("offset", "<i8"), ("stamp", "<i8"), ("partition", "<i4"), ("flags", "<u4")]
)
BUCKET_BITS: Final = 6
BUCKETS: Final = 1 << BUCKET_BITS
_SHIFT: Final = np.uint64(64 - BUCKET_BITS)
_WORD: Final = (1 << 64) - 1
# splitmix64's last steps, and what undoes the multiplications
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_FIRST_BACK, _SECOND_BACK = pow(_FIRST, -1, 1 << 64), pow(_SECOND, -1, 1 << 64)


def integer_keys(ids: npt.NDArray[np.int64]) -> Keys:
    """Keys of integer ids: a one-to-one mixture."""
    keys = ids.astype(np.int64).view(np.uint64)
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(_FIRST)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(_SECOND)
    return keys ^ (keys >> np.uint64(31))


def integer_of(key: int) -> int:
    """The integer whose key this is."""
    value = _unshifted(key, 31) * _SECOND_BACK & _WORD
    value = _unshifted(value, 27) * _FIRST_BACK & _WORD
    value = _unshifted(value, 30)
    return value - (1 << 64) if value >> 63 else value


def _unshifted(value: int, by: int) -> int:
    found = value
    for _ in range(64 // by):
        found = value ^ (found >> by)
    return found


def text_keys(texts: Sequence[str]) -> tuple[Keys, list[tuple[int, str]]]:
    """Keys of ids as text, and (key, text) of those that are no integers: their names must be kept."""
    try:
        column = pa.array(texts, pa.string())
        numbers = column.cast(pa.int64())
        if pc.all(pc.equal(numbers.cast(pa.string()), column)).as_py() is not False:  # '007' is another id than '7'
            return integer_keys(numbers.to_numpy()), []
    except pa.ArrowInvalid:
        pass
    named: list[tuple[int, str]] = []
    keys = np.empty(len(texts), np.uint64)
    numbers_at: list[int] = []
    for index, text in enumerate(texts):
        if is_integer(text):
            numbers_at.append(index)
        else:
            key = hash((text,)) & _WORD
            keys[index] = key
            named.append((key, text))
    keys[numbers_at] = integer_keys(np.array([int(texts[index]) for index in numbers_at], np.int64))
    return keys, named


def is_integer(text: str) -> bool:
    """Whether the id is a 64-bit integer as it is printed: no sign, zero or blank too many."""
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 19):
        return False
    return str(int(text)) == text and -(2**63) <= int(text) < 2**63


def places(partitions: npt.NDArray[Any], offsets: npt.NDArray[Any]) -> Keys:
    """Partition and offset as one number."""
    return (partitions.astype(np.uint64) << np.uint64(48)) | offsets.astype(np.uint64)


def rows_of(
    keys: Keys,
    prints: Any = 0,
    *,
    partitions: Any = -1,
    offsets: Any = -1,
    stamps: Any = -1,
    flags: Any = 0,
) -> Rows:
    """Rows of these columns; a scalar stands for all."""
    rows = np.empty(len(keys), ROW)
    for name, column in (
        ("key", keys),
        ("print", prints),
        ("partition", partitions),
        ("offset", offsets),
        ("stamp", stamps),
        ("flags", flags),
    ):
        rows[name] = column
    return rows


class Spool:
    """Rows of one origin in a file, found again by bucket."""

    def __init__(self, folder: Path, name: str) -> None:
        self._file = (folder / f"{name}.rows").open("w+b")
        self._names = (folder / f"{name}.names").open("w+b")
        self._segments: list[list[tuple[int, int]]] = [[] for _ in range(BUCKETS)]  # (first row, rows) in the file
        self._named: list[list[tuple[int, int]]] = [[] for _ in range(BUCKETS)]  # (first byte, bytes)
        self._pending: list[Rows] = []
        self._pending_rows = 0
        self._rows = 0

    def __len__(self) -> int:
        return self._rows + self._pending_rows

    def append(self, rows: Rows, named: Sequence[tuple[int, str]] = ()) -> None:
        """Take rows, and the names of keys that are no integers."""
        self._pending.append(rows)
        self._pending_rows += len(rows)
        if self._pending_rows >= 200_000:
            self._flush()
        if named:
            self._keep(named)

    def bucket(self, number: int) -> Rows:
        """All rows whose keys fall into this bucket."""
        self._flush()
        parts = []
        for first, count in self._segments[number]:
            self._file.seek(first * ROW.itemsize)
            parts.append(np.frombuffer(self._file.read(count * ROW.itemsize), ROW))
        return np.concatenate(parts) if parts else np.empty(0, ROW)

    def names(self, number: int) -> dict[int, str]:
        """Key -> id, of the keys of this bucket that are no integers."""
        found: dict[int, str] = {}
        for first, count in self._named[number]:
            self._names.seek(first)
            found.update(msgspec.msgpack.decode(self._names.read(count), type=list[tuple[int, str]]))
        return found

    def close(self) -> None:
        self._file.close()
        self._names.close()

    def _flush(self) -> None:
        if not self._pending:
            return
        rows = np.concatenate(self._pending)
        self._pending, self._pending_rows = [], 0
        bucket = (rows["key"] >> _SHIFT).astype(np.int64)
        rows = rows[np.argsort(bucket, kind="stable")]
        ends = np.cumsum(np.bincount(bucket, minlength=BUCKETS)).tolist()
        for number, (first, end) in enumerate(zip([0, *ends], ends, strict=False)):
            if end > first:
                self._segments[number].append((self._rows + first, end - first))
        self._file.seek(self._rows * ROW.itemsize)
        self._file.write(rows.tobytes())
        self._rows += len(rows)

    def _keep(self, named: Sequence[tuple[int, str]]) -> None:
        of_bucket: dict[int, list[tuple[int, str]]] = {}
        for key, text in named:
            of_bucket.setdefault(key >> (64 - BUCKET_BITS), []).append((key, text))
        at = self._names.seek(0, 2)
        for number, entries in of_bucket.items():
            body = msgspec.msgpack.encode(entries)
            self._names.write(body)
            self._named[number].append((at, len(body)))
            at += len(body)


def named_keys(keys: Iterator[int] | Sequence[int], names: dict[int, str]) -> list[str]:
    """The event ids of these keys."""
    return [names[key] if key in names else str(integer_of(key)) for key in keys]
