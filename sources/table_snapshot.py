"""The rows of a table as one exported snapshot sees them, page by page in the order of their ids."""

from collections.abc import Set as AbstractSet

from sources.change_stream import CapturedTable
from sources.pgoutput import Column
from sources.postgres_session import Session, literal, name, rows_of
from sources.row_json import RowJson


class TableSnapshot:
    """Takes the session over for one transaction. Raises psycopg.Error.

    excluding  ids, as text, of rows that come by another way
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
        self.excluding: AbstractSet[bytes] = frozenset()

    def page(self, after: int | None, rows_max: int) -> tuple[list[tuple[bytes | None, bytes]], int | None]:
        """The next rows as records, and the highest id among them; no id: there is nothing left."""
        where = "" if after is None else f" WHERE {self._order_by} > {literal(after)}"
        result = self._session.result(f"{self._select}{where} ORDER BY {self._order_by} LIMIT {rows_max}")
        rows = rows_of(result)
        if not rows:
            return [], None
        columns = [
            Column((result.fname(column) or b"").decode(), result.ftype(column)) for column in range(result.nfields)
        ]
        row_json = RowJson(columns, self._key)
        records = [row_json.record(row) for row in rows if row[self._id_at] not in self.excluding]
        return records, int(rows[-1][self._id_at] or 0)

    def close(self) -> None:
        self._session.close()
