"""Questions to BigQuery's tables: what is asked, and what an unfinished or doubtful answer means."""

from typing import Any

import pytest

from sinks.bigquery_client import Away, BigQueryTable
from sinks.bigquery_ledger import LANDED_BYTES_MAX, BigQueryLedger
from tests.fakes.bigquery_events import TODAY, partition_id


class Row:
    newest, named = 7, 1


class Job:
    """A query job that needs some waits."""

    job_id, total_bytes_processed = "job-1", 0

    def __init__(self, waits: int = 0, errors: Any = None) -> None:
        self.waits, self.errors = waits, errors

    def result(self, **options: Any) -> list[Any]:
        if self.waits:
            self.waits -= 1
            raise TimeoutError
        return [Row]


class Client:
    def __init__(self, job: Job) -> None:
        self.job = job
        self.asked: list[tuple[str, Any]] = []

    def query(self, sql: str, job_config: Any, **options: Any) -> Job:
        self.asked.append((sql, job_config))
        return self.job


def ledger(client: Client, **options: Any) -> BigQueryLedger:
    return BigQueryLedger(client, BigQueryTable("p", "d", "t"), **options)


def test_a_question_reads_only_the_days_of_the_batch_and_never_the_cache() -> None:
    client = Client(Job())
    ledger(client).landed(partition_id(3), 5, [TODAY, TODAY - 1, TODAY - 10])
    [(sql, options)] = client.asked
    assert "(event_ts >= @from0 AND event_ts < @to0) OR (event_ts >= @from1 AND event_ts < @to1)" in sql
    assert not options.use_query_cache
    assert options.maximum_bytes_billed == LANDED_BYTES_MAX, "a table without its partitioning is not read through"
    values = {parameter.name: parameter.value for parameter in options.query_parameters}
    assert (values["partition"], values["offset_from"], values["named"]) == (3, 5, None)
    assert (values["to1"] - values["from1"]).days == 2


def test_a_slow_query_is_waited_for() -> None:
    assert ledger(Client(Job(waits=3))).landed(partition_id(), 0, [TODAY]).newest == 7


def test_a_query_without_end_is_asked_again() -> None:
    with pytest.raises(Away, match="no answer to query job-1 in 120 s"):
        ledger(Client(Job(waits=1000))).landed(partition_id(), 0, [TODAY])


def test_a_stop_request_does_not_wait_for_a_query() -> None:
    with pytest.raises(Away, match="in 5 s"):
        ledger(Client(Job(waits=1000)), stopping=lambda: True).landed(partition_id(), 0, [TODAY])


def test_an_answer_with_errors_is_not_trusted() -> None:
    with pytest.raises(Away, match="is not trusted"):
        ledger(Client(Job(errors=[{"reason": "x"}]))).landed(partition_id(), 0, [TODAY])
