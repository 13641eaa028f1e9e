"""PostgreSQL as the generator sees it: the contents it finds, and rows by COPY, one transaction a batch."""

from collections.abc import Callable, Iterable, Iterator

import psycopg
import stamina
from psycopg.conninfo import conninfo_to_dict

from generator.rows import Record

COPY = "COPY engagement_events (content_id, user_id, event_type, event_ts, duration_ms, device, raw_payload) FROM STDIN"
CONTENTS = "SELECT id::text, length_seconds FROM content ORDER BY id"
RETRY_S_MAX = 2.0


class CannotGenerate(Exception):
    """There is nothing to write to, or about; the text is a sentence that says what to do."""


class Stopped(Exception):
    """Asked to stop while PostgreSQL was away."""


class Database:
    """One connection that is made again whenever PostgreSQL was away. While it is, `say` is told, and calls wait.

    stopping: ends the wait; the call then raises Stopped.
    """

    def __init__(self, dsn: str, say: Callable[[str], None], stopping: Callable[[], bool]) -> None:
        self._dsn, self._say, self._stopping = dsn, say, stopping
        self._connection: psycopg.Connection | None = None
        self._away = False

    def contents(self) -> list[tuple[str, int | None]]:
        """(id, length in seconds or None) of every content. Raises CannotGenerate where there is none."""
        rows: list[tuple[str, int | None]] = []

        def read(connection: psycopg.Connection) -> None:
            rows[:] = connection.execute(CONTENTS).fetchall()

        self._transaction(read)
        if not rows:
            raise CannotGenerate(
                f"table content in {self._where()} has no rows to make events about. "
                'Sample rows: psql "$DATABASE_URL" -f sql/postgres/0002_sample_content.sql'
            )
        return rows

    def write(self, records: Callable[[], Iterable[Record]]) -> None:
        """Write the rows that `records()` yields in one transaction.

        It is called again where the connection broke. Whether a commit whose answer was lost had happened is not known:
        its rows may then be there twice, as a real client that tries again would leave them.
        """

        def copy(connection: psycopg.Connection) -> None:
            with connection.cursor().copy(COPY) as rows:
                for record in records():
                    rows.write_row(record)

        self._transaction(copy)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _transaction(self, work: Callable[[psycopg.Connection], None]) -> None:
        """Do `work` in a transaction, again and again while PostgreSQL is away.

        Raises CannotGenerate where PostgreSQL refuses (a table is missing, a right, a content row that is gone)."""
        try:
            for attempt in self._attempts():
                with attempt:
                    self._try(work)
        except psycopg.OperationalError as error:
            raise Stopped from error
        except psycopg.errors.UndefinedTable as error:
            raise CannotGenerate(
                f"{error.diag.message_primary} in {self._where()}. "
                'Create the tables: psql "$DATABASE_URL" -f sql/postgres/0001_tables.sql'
            ) from error
        except psycopg.Error as error:
            raise CannotGenerate(f"PostgreSQL at {self._where()} refuses: {_one_line(error)}") from error

    def _try(self, work: Callable[[psycopg.Connection], None]) -> None:
        try:
            connection = self._connected()
            with connection.transaction():
                work(connection)
        except psycopg.OperationalError as error:
            self.close()
            if not self._away:
                self._say(f"PostgreSQL at {self._where()} does not answer, waiting for it: {_one_line(error)}")
            self._away = True
            raise
        if self._away:
            self._say(f"PostgreSQL at {self._where()} answers again")
        self._away = False

    def _attempts(self) -> Iterator[stamina.Attempt]:
        return iter(
            stamina.retry_context(
                on=lambda error: isinstance(error, psycopg.OperationalError) and not self._stopping(),
                attempts=None,
                timeout=None,
                wait_initial=0.1,
                wait_max=RETRY_S_MAX,
            )
        )

    def _connected(self) -> psycopg.Connection:
        if self._connection is None:
            self._connection = psycopg.connect(
                self._dsn, autocommit=True, connect_timeout=5, application_name="generator"
            )
        return self._connection

    def _where(self) -> str:
        parts = conninfo_to_dict(self._dsn)
        return f"{parts.get('host', 'localhost')}:{parts.get('port', 5432)}/{parts.get('dbname', 'postgres')}"


def _one_line(error: psycopg.Error) -> str:
    return " ".join(str(error).split()) or type(error).__name__
