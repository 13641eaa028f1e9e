"""A small PostgreSQL table kept in memory: loaded whole, asked for missing keys in batches, refreshed by the minute.

The database is spoken to on a thread of its own: whoever needs a row never blocks, it asks, goes on, and looks again.
Rows are Arrow columns from the wire on: no Python object per field, and while they are read and compared the other
threads go on.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import stamina
import structlog
from pyarrow import csv

REFRESH_S = 45.0  # a changed row shows within 60 s
CONNECT_TIMEOUT_S = 5
RETRY_WAIT_S_MAX = 5.0
ASKED_MAX = 5_000  # keys per query
PAGE_BYTES = 1_000_000  # of what PostgreSQL sends, made columns at a time
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Answer:
    """What came from the database. rows: new or changed; absent: keys asked for, or known until now, that have no row.

    complete  the answer of a load of the whole table: a key absent until now may be there, ask again
    """

    rows: pa.RecordBatch
    absent: list[str]
    complete: bool


class PostgresLookup:
    """Rows of one table by key.

    select_all, select_some  SQL with the columns of `schema`; `select_some` takes %(ids)s, a list of keys
    schema                   names and types; the first column is the key, a text
    stopping                 the request to stop: ends the retries
    """

    def __init__(
        self, dsn: str, select_all: str, select_some: str, schema: pa.Schema, stopping: Callable[[], bool]
    ) -> None:
        self._dsn = dsn
        self._select_all = select_all
        self._select_some = select_some
        self._schema = schema
        self._stopping = stopping
        self._asked: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._under_way: set[str] = set()
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._nothing = pa.RecordBatch.from_pylist([], schema)
        self._known = self._nothing
        self._thread = threading.Thread(target=self._run, name="postgres-lookup", daemon=True)
        self.error = ""  # the last trouble in words, "" while all is well

    def start(self) -> None:
        """Begin with the bulk load."""
        self._thread.start()

    def ask(self, keys: Iterable[str]) -> None:
        """Ask for rows; asking again while the question is under way is free."""
        for key in set(keys) - self._under_way:
            self._under_way.add(key)
            self._asked.put(key)

    def answers(self) -> list[Answer]:
        """What has come since the last call. Never blocks."""
        answers: list[Answer] = []
        while not self._answers.empty():
            answer = self._answers.get_nowait()
            asked = pa.array(self._under_way, pa.string())
            self._under_way.difference_update(_among(asked, answer.rows).to_pylist(), answer.absent)
            answers.append(answer)
        return answers

    def _run(self) -> None:
        asked: list[str] = []
        refresh_at = 0.0
        while not self._stopping():
            try:
                with self._connect() as connection:
                    while not self._stopping():
                        if time.monotonic() >= refresh_at:
                            self._load(connection)
                            refresh_at = time.monotonic() + REFRESH_S
                        asked = asked or self._next_questions(refresh_at - time.monotonic())
                        if asked:
                            self._look_up(connection, asked)
                            asked = []
            except (psycopg.Error, pa.ArrowInvalid) as error:  # Arrow's: a column of another type
                self._trouble(error)
                time.sleep(1.0)  # a missing table or right fails at once, again and again

    def _connect(self) -> psycopg.Connection:
        for attempt in stamina.retry_context(
            on=self._worth_waiting, attempts=None, timeout=None, wait_initial=0.2, wait_max=RETRY_WAIT_S_MAX
        ):
            with attempt:
                connection = psycopg.connect(self._dsn, connect_timeout=CONNECT_TIMEOUT_S, autocommit=True)
        self.error = ""
        return connection

    def _worth_waiting(self, error: Exception) -> bool:
        if isinstance(error, psycopg.OperationalError):
            self._trouble(error)
        return isinstance(error, psycopg.OperationalError) and not self._stopping()

    def _trouble(self, error: Exception) -> None:
        words = " ".join(str(error).split())
        if words != self.error:
            log.warning("waiting_for_postgres", error=words, meaning="batches with unknown keys wait; the rest goes on")
        self.error = words

    def _load(self, connection: psycopg.Connection) -> None:
        found = self._rows(connection, self._select_all)
        changed, gone = differences(self._known, found)
        self._known = found
        self._answers.put(Answer(changed, gone, complete=True))

    def _look_up(self, connection: psycopg.Connection, asked: list[str]) -> None:
        """What is known has been answered before the question was seen: a start asks while the table is loaded."""
        unknown = _not_among(pa.array(asked, pa.string()), self._known)
        found = self._rows(connection, self._select_some, {"ids": unknown.to_pylist()})
        if len(found):
            self._known = _in_one_piece([self._known, found])
        self._answers.put(Answer(found, _not_among(unknown, found).to_pylist(), complete=False))

    def _rows(
        self, connection: psycopg.Connection, select: str, parameters: Mapping[str, Any] | None = None
    ) -> pa.RecordBatch:
        """What a SELECT finds."""
        pages, lines, size = [self._nothing], [], 0
        with connection.cursor() as cursor, cursor.copy(f"COPY ({select}) TO STDOUT (FORMAT csv)", parameters) as copy:
            for line in copy:  # a row each
                # Not the view of it: the collector would look at thousands of them again and again, thrice the time.
                lines.append(bytes(line))
                size += len(line)
                if size >= PAGE_BYTES:
                    pages += columns_of(b"".join(lines), self._schema)
                    lines, size = [], 0
        return _in_one_piece([*pages, *columns_of(b"".join(lines), self._schema)])

    def _next_questions(self, timeout_s: float) -> list[str]:
        """Everything asked by now; waits for the first question, at most a second at a time."""
        try:
            keys = [self._asked.get(timeout=max(0.0, min(timeout_s, 1.0)))]
        except queue.Empty:
            return []
        while not self._asked.empty() and len(keys) < ASKED_MAX:
            keys.append(self._asked.get_nowait())
        return keys


def differences(known: pa.RecordBatch, found: pa.RecordBatch) -> tuple[pa.RecordBatch, list[str]]:
    """Rows found that are new or differ from those known, and keys known that were not found. The key comes first."""
    if not len(known):
        return found, []  # all of a start's load, without a copy
    place: Any = pc.index_in(found.column(0), value_set=known.column(0))  # null: new
    same = place.is_valid()
    for now, before in zip(found.columns[1:], known.take(place).columns[1:], strict=True):
        equal: Any = pc.equal(now, before)  # null where one of them is
        same = pc.and_(same, pc.or_(equal.fill_null(False), pc.and_(now.is_null(), before.is_null())))
    return found.filter(pc.invert(same)), _not_among(known.column(0), found).to_pylist()


def _among(keys: Any, rows: pa.RecordBatch) -> Any:
    return keys.filter(pc.is_in(keys, value_set=rows.column(0)))


def _not_among(keys: Any, rows: pa.RecordBatch) -> Any:
    return keys.filter(pc.invert(pc.is_in(keys, value_set=rows.column(0))))


def _in_one_piece(parts: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """All rows in one piece, so that a row is found without looking for its piece."""
    whole: pa.RecordBatch = pa.concat_batches(parts)  # type: ignore[attr-defined]  # missing in its stubs
    return whole


def columns_of(lines: bytes, schema: pa.Schema) -> list[pa.RecordBatch]:
    """Whole lines of CSV."""
    if not lines:
        return []
    reading = csv.ReadOptions(column_names=schema.names, block_size=len(lines), use_threads=False)
    # As COPY writes them: null is nothing at all, an empty text is "".
    typed = csv.ConvertOptions(
        column_types=schema, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
    )
    return csv.read_csv(BytesIO(lines), reading, csv.ParseOptions(newlines_in_values=True), typed).to_batches()
