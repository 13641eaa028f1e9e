"""Dataset, tables and views in BigQuery, from sql/bigquery: made by provision, and compared with what is there.

The SQL files are the only description of the columns. Order matters: a view needs its table.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog
from google.api_core import exceptions as failures
from google.cloud import bigquery

from sinks.bigquery_client import CALL_SECONDS, BigQueryTable

log = structlog.get_logger()

SQL = Path(__file__).parent.parent / "sql" / "bigquery"
ROWS = "enriched_events"  # the folder of the table that takes the rows
TABLES = {ROWS: "{table}", "sink_streams": "_sink_streams"}  # folder -> name in the dataset
VIEWS = ("daily_engagement_summary", "hourly_engagement_trends", "enriched_events_once")
# What DDL calls a type, and what the API answers.
TYPES = {"INT64": "INTEGER", "FLOAT64": "FLOAT", "BOOL": "BOOLEAN"}


def ensure(client: Any, table: BigQueryTable, location: str | None = None) -> list[tuple[str, bool]]:
    """Make what is missing: idempotent. Answers (name, created) of each thing, views among them (always replaced).

    client  google.cloud.bigquery.Client; location: of a new dataset, None: BigQuery's default (US)
    Tries once: raises google.api_core errors, which sinks.bigquery_client.translated puts into words."""
    done = [(f"dataset {table.project}.{table.dataset}", _ensure_dataset(client, table, location))]
    for folder in TABLES:
        name = _name(table, folder)
        existing = _table(client, name)
        if existing is None:
            _run(client, _sql(folder, "schema.sql", table))
        else:
            _add_columns(client, existing, folder, table)
        done.append((f"table {name}", existing is None))
    for view in VIEWS:
        name = f"{table.project}.{table.dataset}.{view}"
        created = _table(client, name) is None
        _run(client, _sql(view, "view.sql", table))
        done.append((f"view {name}", created))
    return done


def check(client: Any, table: BigQueryTable) -> list[str]:
    """What is missing or differs, a sentence each; empty: all is there. Changes nothing."""
    try:
        client.get_dataset(f"{table.project}.{table.dataset}", retry=None, timeout=CALL_SECONDS)
    except failures.NotFound:
        return [f"BigQuery dataset {table.project}.{table.dataset} is missing"]
    problems: list[str] = []
    for folder in TABLES:
        name = _name(table, folder)
        found = _table(client, name)
        problems += [f"BigQuery table {name} is missing"] if found is None else _differences(found, folder, name)
    names = [f"{table.project}.{table.dataset}.{view}" for view in VIEWS]
    return problems + [f"BigQuery view {name} is missing" for name in names if _table(client, name) is None]


def columns(folder: str) -> list[tuple[str, str, str]]:
    """(name, type, mode) of each column in a folder's schema.sql, as the API names them."""
    return list(_columns((SQL / folder / "schema.sql").read_text(encoding="utf-8")))


def day_column() -> str:
    """The column by whose day the table is partitioned, as its schema.sql says."""
    found = re.search(
        r"^PARTITION BY TIMESTAMP_TRUNC\((\w+), DAY\)", (SQL / ROWS / "schema.sql").read_text("utf-8"), re.M
    )
    assert found is not None, "schema.sql partitions by no day"
    return found[1]


def _columns(sql: str) -> Iterator[tuple[str, str, str]]:
    for name, kind, required in re.findall(r"^  (\w+) ([A-Z0-9<>]+)( NOT NULL)?,?$", sql, re.MULTILINE):
        repeated = re.fullmatch(r"ARRAY<(\w+)>", kind)
        kind = repeated[1] if repeated else kind
        yield name, TYPES.get(kind, kind), "REPEATED" if repeated else "REQUIRED" if required else "NULLABLE"


def _differences(found: Any, folder: str, name: str) -> Iterator[str]:
    there = {field.name: (TYPES.get(field.field_type, field.field_type), field.mode) for field in found.schema}
    for column, kind, mode in columns(folder):
        if column not in there:
            yield f"BigQuery table {name} has no column {column}"
        elif there[column][0] != kind or (mode == "REPEATED") != (there[column][1] == "REPEATED"):
            yield f"BigQuery table {name}: column {column} is {' '.join(there[column])}, not {kind} {mode}"
    if folder == ROWS:
        by = found.time_partitioning
        if by is None or by.type_ != "DAY" or by.field not in (None, day_column()):  # emulators leave the field out
            yield f"BigQuery table {name} is not partitioned by day of {day_column()}: copy it into a new one"


def _add_columns(client: Any, found: Any, folder: str, table: BigQueryTable) -> None:
    """Columns that a newer version added: nullable, so that older writers go on."""
    there = {field.name for field in found.schema}
    missing = [(name, kind, mode) for name, kind, mode in columns(folder) if name not in there]
    if missing:
        added = [
            bigquery.SchemaField(name, kind, mode if mode == "REPEATED" else "NULLABLE") for name, kind, mode in missing
        ]
        found.schema = [*found.schema, *added]
        client.update_table(found, ["schema"], retry=None, timeout=CALL_SECONDS)
        log.info("bigquery_columns_added", table=_name(table, folder), columns=[name for name, _, _ in missing])


def _ensure_dataset(client: Any, table: BigQueryTable, location: str | None) -> bool:
    dataset = bigquery.Dataset(f"{table.project}.{table.dataset}")
    try:
        client.get_dataset(dataset.reference, retry=None, timeout=CALL_SECONDS)
        return False
    except failures.NotFound:
        if location is not None:
            dataset.location = location
        client.create_dataset(dataset, exists_ok=True, retry=None, timeout=CALL_SECONDS)
        return True


def _run(client: Any, sql: str) -> None:
    client.query_and_wait(sql, retry=None, job_retry=None, api_timeout=CALL_SECONDS)


def _table(client: Any, name: str) -> Any:
    try:
        return client.get_table(name, retry=None, timeout=CALL_SECONDS)
    except failures.NotFound:
        return None


def _name(table: BigQueryTable, folder: str) -> str:
    return f"{table.project}.{table.dataset}.{TABLES[folder].format(table=table.table)}"


def _sql(folder: str, file: str, table: BigQueryTable) -> str:
    sql = (SQL / folder / file).read_text(encoding="utf-8")
    return sql.format(project=table.project, dataset=table.dataset, table=table.table)
