"""The rows of a table as one exported snapshot sees them, page by page in the order of their ids."""

from dataclasses import dataclass

import numpy as np

from sources.change_stream import CapturedTable
from sources.id_set import Ids, IdSet
from sources.pgoutput import Column
from sources.postgres_session import Session, literal, name, rows_of
from sources.row_json import RowJson


@dataclass(frozen=True, slots=True)
class Page:
    """Records, their ids, and the last id that was looked at, excluded or not."""

    records: list[tuple[bytes | None, bytes]]
    ids: Ids
    last: int


class TableSnapshot:
    """Takes the session over for one transaction. Raises psycopg.Error.

    excluding  ids of rows that come by another way, or have come
    """

    def __init__(
        self,
        session: Session,
        snapshot: str,
        captured: CapturedTable,
        columns: list[str],
    ) -> None:
        """snapshot  name of the exported snapshot; its session must not have run a command since"""
        session.ask("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        session.ask(f"SET TRANSACTION SNAPSHOT {literal(snapshot)}")
        self._session = session
        self._select = f"SELECT {', '.join(name(column) for column in columns)} FROM {name(*captured.table)}"
        self._order_by, self._id_at = name(captured.order_by), columns.index(captured.order_by)
        self._key = captured.key
        self.excluding = IdSet()

    def page(self, after: int | None, rows_max: int) -> Page | None:
        """The next rows; None: there is nothing left."""
        where = "" if after is None else f" WHERE {self._order_by} > {literal(after)}"
        result = self._session.result(f"{self._select}{where} ORDER BY {self._order_by} LIMIT {rows_max}")
        rows = rows_of(result)
        if not rows:
            return None
        columns = [
            Column((result.fname(column) or b"").decode(), result.ftype(column)) for column in range(result.nfields)
        ]
        row_json = RowJson(columns, self._key)
        ids = np.array([int(row[self._id_at] or 0) for row in rows], np.int64)
        wanted = ~self.excluding.holds(ids)
        records = [row_json.record(row) for row, is_wanted in zip(rows, wanted, strict=True) if is_wanted]
        return Page(records, ids[wanted], int(ids[-1]))

    def close(self) -> None:
        self._session.close()


def rows_between(
    session: Session, captured: CapturedTable, first: int | None, last: int | None = None
) -> tuple[int, str | None, str | None]:
    """How many rows there are now from one id to another, both included, with the first and last id of these."""
    column = name(captured.order_by)
    bounds = [f"{column} >= {literal(first)}"] if first is not None else []
    bounds += [f"{column} <= {literal(last)}"] if last is not None else []
    where = f" WHERE {' AND '.join(bounds)}" if bounds else ""
    row = session.ask(
        f"SELECT count(*) AS rows, min({column}) AS first, max({column}) AS last FROM {name(*captured.table)}{where}"
    )[0]
    return int(row["rows"] or 0), row["first"], row["last"]


def rows_beyond(session: Session, captured: CapturedTable, highest: int | None) -> str:
    """Which rows may never have been sent, where `highest` is the highest id that was."""
    count, first, last = rows_between(session, captured, None if highest is None else highest + 1)
    table = ".".join(captured.table)
    if not count and highest is None:
        return f"{table} has no rows."
    if not count:
        return f"No row of {table} has an id beyond {highest}, the highest that was sent."
    beyond = "" if highest is None else f", beyond {highest}, the highest that was sent"
    return f"Rows of {table} that may be missing: {count}, ids {first} to {last}{beyond}."
