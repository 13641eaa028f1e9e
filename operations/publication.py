"""The publication that the capture reads: the inserts of the events' table."""

import psycopg
from psycopg import sql

from operations.steps import Step
from operations.terminal import Problem, waiting
from sources.kafka_topics import ask

TABLE = "engagement_events"


def publication_step(dsn: str, publication: str) -> Step:
    return Step(
        f"publication {publication} of PostgreSQL",
        lambda: _missing(dsn, publication),
        lambda: _create(dsn, publication),
    )


def _missing(dsn: str, publication: str) -> str | None:
    with _connect(dsn) as connection:
        found = connection.execute(
            "SELECT p.pubinsert, t.tablename FROM pg_publication p LEFT JOIN pg_publication_tables t "
            "ON t.pubname = p.pubname AND t.tablename = %s WHERE p.pubname = %s",
            [TABLE, publication],
        ).fetchone()
    if found is None:
        return "no such publication"
    inserts, table = found
    if not inserts or table is None:
        raise Problem(
            f"Publication {publication} is there, and does not publish the inserts of {TABLE}: "
            f"DROP PUBLICATION {publication}, then run this again."
        )
    return None


def _create(dsn: str, publication: str) -> None:
    statement = sql.SQL("CREATE PUBLICATION {} FOR TABLE {} WITH (publish = 'insert')").format(
        sql.Identifier(publication), sql.Identifier(TABLE)
    )
    try:
        with _connect(dsn) as connection:
            connection.execute(statement)
    except psycopg.errors.UndefinedTable as failure:
        raise Problem(f"PostgreSQL has no table {TABLE}: apply sql/postgres/*.sql first.") from failure
    except psycopg.errors.InsufficientPrivilege as failure:
        raise Problem(f"PostgreSQL does not let this user create publication {publication}: {failure}") from failure


def _connect(dsn: str) -> psycopg.Connection:
    """Waits while PostgreSQL is away; wrong credentials are a Problem."""
    address = psycopg.conninfo.conninfo_to_dict(dsn)
    where = f"PostgreSQL at {address.get('host', 'localhost')}:{address.get('port', 5432)}"
    try:
        return ask(
            f"reach {where}", lambda: psycopg.connect(dsn, connect_timeout=5, autocommit=True), waiting, _is_away
        )
    except psycopg.OperationalError as failure:
        raise Problem(f"{where} refuses the connection: {str(failure).strip()}") from failure


def _is_away(failure: Exception) -> bool:
    """No answer, or one that passes: still starting. Everything else that PostgreSQL answers is a refusal."""
    text = str(failure)
    passing = ("refused", "timeout", "timed out", "closed the connection", "starting up", "shutting down", "recovery")
    return isinstance(failure, psycopg.OperationalError) and any(words in text for words in passing)
