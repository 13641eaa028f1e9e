"""A small PostgreSQL table kept in memory: loaded whole, asked for missing keys in batches, refreshed by the minute.

The database is spoken to on a thread of its own: whoever needs a row never blocks, it asks, goes on, and looks again.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import psycopg
import stamina
import structlog

REFRESH_S = 45.0  # a changed row shows within 60 s
CONNECT_TIMEOUT_S = 5
RETRY_WAIT_S_MAX = 5.0
ASKED_MAX = 5_000  # keys per query
PAGE_ROWS = 5_000  # of the whole table at a time

Row = tuple[Any, ...]  # the key first
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Answer:
    """What came from the database. rows: new or changed; absent: keys asked for, or known until now, that have no row.

    complete  the answer of a load of the whole table: a key absent until now may be there, ask again
    """

    rows: list[Row]
    absent: frozenset[str]
    complete: bool


class PostgresLookup:
    """Rows of one table by key.

    select_all, select_some  SQL whose first column is the key as text; `select_some` takes %(ids)s, a list of keys
    stopping                 the request to stop: ends the retries
    """

    def __init__(self, dsn: str, select_all: str, select_some: str, stopping: Callable[[], bool]) -> None:
        self._dsn = dsn
        self._select_all = select_all
        self._select_some = select_some
        self._stopping = stopping
        self._asked: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._under_way: set[str] = set()
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._known: dict[str, Row] = {}
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
            self._under_way.difference_update([row[0] for row in answer.rows], answer.absent)
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
            except psycopg.Error as error:
                self._trouble(error)
                time.sleep(1.0)  # a missing table or right fails at once, again and again

    def _connect(self) -> psycopg.Connection[Row]:
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

    def _load(self, connection: psycopg.Connection[Row]) -> None:
        """By a cursor of the server: a row that has not changed is let go at once, or each refresh would need the
        memory of the whole table again."""
        rows: dict[str, Row] = {}
        changed = []
        with connection.transaction(), connection.cursor(name="whole_table") as cursor:
            cursor.itersize = PAGE_ROWS
            for row in cursor.execute(self._select_all):
                known = self._known.get(row[0])
                if known != row:
                    changed.append(row)
                    known = row
                rows[row[0]] = known
        gone = frozenset(self._known.keys() - rows.keys())
        self._known = rows
        self._answers.put(Answer(changed, gone, complete=True))

    def _look_up(self, connection: psycopg.Connection[Row], asked: list[str]) -> None:
        rows = {row[0]: row for row in connection.execute(self._select_some, {"ids": asked})}
        self._known |= rows
        self._answers.put(Answer(list(rows.values()), frozenset(asked) - rows.keys(), complete=False))

    def _next_questions(self, timeout_s: float) -> list[str]:
        """Everything asked by now; waits for the first question, at most a second at a time."""
        try:
            keys = [self._asked.get(timeout=max(0.0, min(timeout_s, 1.0)))]
        except queue.Empty:
            return []
        while not self._asked.empty() and len(keys) < ASKED_MAX:
            keys.append(self._asked.get_nowait())
        return keys
