"""A connection to PostgreSQL for the simple query protocol, where a wait can be left when the process must stop."""

import select
from collections.abc import Callable

from psycopg import Connection, OperationalError
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn, PGresult
from psycopg.sql import Identifier
from psycopg.sql import Literal as SqlLiteral

WAIT_S = 0.1  # how long a request to stop may go unseen
# What values look like as text must not depend on the server's configuration.
OPTIONS = "-c timezone=UTC -c datestyle=ISO,YMD -c client_encoding=UTF8"
DEFAULTS = {
    "application_name": "engagement-capture",
    "connect_timeout": "5",
    # A peer that is gone without a word is noticed within half a minute.
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "4",
    "tcp_user_timeout": "30000",
}


class Session:
    """One connection. `replication`: one that also takes replication commands.

    stopping, abandon  asked while waiting for an answer; `abandon()` ends the process
    Raises psycopg.Error; OperationalError where the server is away.
    """

    def __init__(
        self,
        dsn: str,
        *,
        replication: bool,
        stopping: Callable[[], bool],
        abandon: Callable[[], object],
    ) -> None:
        given = {name: str(value) for name, value in conninfo_to_dict(dsn).items()}
        given["options"] = f"{given.get('options', '')} {OPTIONS}".strip()
        conninfo = make_conninfo(**{**DEFAULTS, **given}, **({"replication": "database"} if replication else {}))
        self._connection = Connection.connect(conninfo, autocommit=True)
        self._stopping, self._abandon = stopping, abandon

    @property
    def wire(self) -> PGconn:
        """libpq's own connection."""
        return self._connection.pgconn

    def ask(self, statement: str) -> list[dict[str, str | None]]:
        """Run one statement; its rows, values in text form."""
        result = self.result(statement)
        names = [(result.fname(column) or b"").decode() for column in range(result.nfields)]
        return [
            {name: None if value is None else value.decode() for name, value in zip(names, row, strict=True)}
            for row in rows_of(result)
        ]

    def result(self, statement: str) -> PGresult:
        """Run one statement; libpq's result. Returns when copying starts, if the statement starts that."""
        wire = self.wire
        wire.send_query(statement.encode())
        wire.flush()
        last: PGresult | None = None
        while True:
            while wire.is_busy():
                if self._stopping():
                    self._abandon()
                if self.readable(WAIT_S):
                    wire.consume_input()
            result = wire.get_result()
            if result is None:
                break
            last = result
            if result.status == ExecStatus.COPY_BOTH:
                break
        if last is None:
            raise OperationalError("the server closed the connection without an answer")
        if last.status not in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK, ExecStatus.COPY_BOTH):
            raise error_from_result(last)
        return last

    def readable(self, seconds: float) -> bool:
        """Wait until the server has sent something, at most this long."""
        return bool(select.select([self.wire.socket], [], [], seconds)[0])

    def close(self) -> None:
        self._connection.close()


def rows_of(result: PGresult) -> list[list[bytes | None]]:
    """The rows of a result, values as the bytes of their text form."""
    columns = range(result.nfields)
    return [[result.get_value(row, column) for column in columns] for row in range(result.ntuples)]


def name(*parts: str) -> str:
    """'public', 'content' -> "public"."content"."""
    return Identifier(*parts).as_string()


def literal(value: str | int) -> str:
    """A value as a piece of SQL."""
    return SqlLiteral(value).as_string()
