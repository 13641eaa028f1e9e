"""What the sink relies on, asked of the emulator and of the fake alike: a fake that lies proves nothing."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pytest
from google.api_core.exceptions import NotFound
from google.cloud.bigquery_storage_v1.types import WriteStream

from sinks.bigquery import BigQuerySink
from sinks.bigquery_client import BigQueryTable
from sinks.bigquery_ledger import BigQueryLedger, Entry, Ledger
from sinks.bigquery_rows import UTC_MICROSECONDS
from sinks.bigquery_stream import Append, AppendStream
from sinks.bigquery_tables import ensure
from sinks.fenced_commit import Committed
from sources.positions import Fenced, FlowStopped, PartitionId
from tests.fakes.bigquery_events import NOW, TODAY, abandon, arrow_rows, batch, day_of, partition_id
from tests.fakes.bigquery_write import FakeBigQuery
from tests.fakes.positions import FakeBroker, FakeFencedCommit

SCHEMA = pa.schema(
    [
        ("event_id", pa.string()),
        ("event_type", pa.string()),
        ("event_ts", UTC_MICROSECONDS),
        ("source_topic", pa.string()),
        ("source_epoch", pa.string()),
        ("kafka_partition", pa.int64()),
        ("kafka_offset", pa.int64()),
    ]
)


@dataclass
class Service:
    """One BigQuery: where its table is, its clients, its ledger."""

    table: BigQueryTable
    writer: Any
    ledger: Ledger


@pytest.fixture(params=["fake", "emulator"])
def service(request: pytest.FixtureRequest, unique: str) -> Iterator[Service]:
    if request.param == "fake":
        fake = FakeBigQuery().start()
        yield Service(fake.table, fake.table.write_client(), fake.objects["ledger"])
        fake.stop()
        return
    emulator = request.getfixturevalue("bigquery_emulator")
    dataset = f"t_{unique}".replace("-", "_")
    table = BigQueryTable(emulator.project, dataset, "enriched_events", emulator.rest, emulator.grpc)
    client = table.query_client()
    ensure(client, table)
    yield Service(table, table.write_client(), BigQueryLedger(client, table))


def partition(number: int = 0) -> PartitionId:
    return partition_id(number)


def rows(offsets: range, day: int = TODAY) -> bytes:
    count, where = len(offsets), partition()
    return bytes(
        pa.RecordBatch.from_arrays(
            [
                pa.array([f"e{offset}" for offset in offsets]),
                pa.array(["play"] * count),
                pa.array([day * 86_400_000_000 + 5] * count, pa.int64()).view(UTC_MICROSECONDS),
                pa.array([where.topic] * count),
                pa.array([where.topic_id] * count),
                pa.array([where.partition] * count, pa.int64()),
                pa.array(list(offsets), pa.int64()),
            ],
            schema=SCHEMA,
        ).serialize()
    )


def new_stream(service: Service) -> AppendStream:
    wanted = WriteStream(type_=WriteStream.Type.COMMITTED)
    name = service.writer.create_write_stream(parent=service.table.path, write_stream=wanted).name
    return attached(service, name)


def attached(service: Service, name: str) -> AppendStream:
    return AppendStream(service.writer.transport, name, bytes(SCHEMA.serialize()), ack_seconds=10)


class TestStreams:
    def test_rows_are_found_as_soon_as_they_are_acknowledged(self, service: Service) -> None:
        stream = new_stream(service)
        stream.send([Append(0, 5, rows(range(5))), Append(5, 3, rows(range(5, 8)))])
        assert stream.settle() is None
        assert stream.end == 8
        assert service.ledger.landed(partition(), 0, [TODAY]).newest == 7
        stream.close()

    def test_the_same_offset_twice_lands_once(self, service: Service) -> None:
        stream = new_stream(service)
        stream.send([Append(0, 5, rows(range(5)))])
        assert stream.settle() is None
        again = attached(service, stream.name)
        again.send([Append(0, 5, rows(range(5))), Append(5, 1, rows(range(5, 6)))])
        assert again.settle() is None
        assert service.ledger.landed(partition(), 0, [TODAY]).newest == 5
        stream.close()
        again.close()

    def test_an_offset_beyond_the_end_lands_nothing(self, service: Service) -> None:
        stream = new_stream(service)
        stream.send([Append(7, 5, rows(range(5)))])
        with pytest.raises(Exception, match=r"(?i)offset|range|end"):
            stream.settle()
        with pytest.raises(FlowStopped, match="beyond its end, twice"):
            stream.settle()
        assert service.ledger.landed(partition(), 0, [TODAY]).newest is None

    def test_nothing_enters_a_finalised_stream(self, service: Service) -> None:
        stream = new_stream(service)
        stream.send([Append(0, 5, rows(range(5)))])
        assert stream.settle() is None
        service.writer.finalize_write_stream(name=stream.name)
        service.writer.finalize_write_stream(name=stream.name)  # any number of times
        stream.send([Append(5, 5, rows(range(5, 10)))])
        with pytest.raises(Fenced, match="finalised or gone"):
            stream.settle()
        assert service.ledger.landed(partition(), 0, [TODAY]).newest == 4

    def test_a_stream_that_is_not_there_is_fenced(self, service: Service) -> None:
        stream = attached(service, f"{service.table.path}/streams/AbCdEf0123456789")
        stream.send([Append(0, 5, rows(range(5)))])
        with pytest.raises(Fenced):
            stream.settle()

    def test_finalising_a_stream_that_is_not_there_says_so(self, service: Service) -> None:
        stream = new_stream(service)
        missing = stream.name[:-4] + "ffff"
        with pytest.raises(NotFound):
            service.writer.finalize_write_stream(name=missing)


class TestLedger:
    def test_registered_streams_are_read_back(self, service: Service) -> None:
        ledger, path = service.ledger, service.table.path
        mine = [Entry(0, 1, f"{path}/streams/b"), Entry(1, 1, f"{path}/streams/a")]
        ledger.register("events", "id-1", mine)
        ledger.register("events", "id-1", [Entry(0, 2, f"{path}/streams/c")])
        ledger.register("events", "id-2", [Entry(0, 9, f"{path}/streams/d")])
        assert ledger.registered("events", "id-1", [0]) == [mine[0], Entry(0, 2, f"{path}/streams/c")]
        assert ledger.registered("events", "id-1", [0, 1])[-1] == mine[1]
        assert ledger.registered("other", "id-1", [0]) == []

    def test_pruning_forgets_only_older_claims_of_that_partition(self, service: Service) -> None:
        ledger, path = service.ledger, service.table.path
        where = partition()
        entries = [Entry(0, claim, f"{path}/streams/{claim}") for claim in (1, 2, 3)]
        other = Entry(1, 1, f"{path}/streams/other")
        ledger.register(where.topic, where.topic_id, [*entries, other])
        ledger.prune(where, 3)
        assert ledger.registered(where.topic, where.topic_id, [0, 1]) == [entries[2], other]

    def test_landed_looks_only_at_the_days_and_offsets_asked_for(self, service: Service) -> None:
        stream = new_stream(service)
        stream.send([Append(0, 3, rows(range(3))), Append(3, 1, rows(range(3, 4), TODAY - 10))])
        assert stream.settle() is None
        ledger = service.ledger
        assert ledger.landed(partition(), 0, [TODAY]).newest == 2
        assert ledger.landed(partition(), 0, [TODAY, TODAY - 10]).newest == 3
        assert ledger.landed(partition(), 4, [TODAY, TODAY - 10]).newest is None
        assert ledger.landed(partition(1), 0, [TODAY]).newest is None
        assert ledger.landed(partition(), 0, [TODAY], named=1).named_found
        assert not ledger.landed(partition(), 0, [TODAY], named=3).named_found
        stream.close()


class TestSink:
    @pytest.fixture
    def broker(self) -> FakeBroker:
        return FakeBroker(positions={0: Committed(0, "", 0.0), 1: Committed(0, "", 0.0)})

    def sink(self, service: Service, broker: FakeBroker, owner: str) -> BigQuerySink:
        made = BigQuerySink(
            service.table,
            rows=arrow_rows,
            day_of=day_of,
            position=lambda where: FakeFencedCommit(broker, where),
            dead_letters="dead",
            stopping=lambda: False,
            abandon=abandon,
            ledger=service.ledger,
            writer=service.writer,
            clock=lambda: NOW,
        )
        made.claim(partition(0), owner)
        made.claim(partition(1), owner)
        return made

    def newest(self, service: Service, number: int = 0) -> int | None:
        return service.ledger.landed(partition(number), 0, range(TODAY - 20, TODAY + 1)).newest

    def test_a_restart_goes_on_where_the_table_ends(self, service: Service, broker: FakeBroker) -> None:
        days = {9: TODAY - 10}
        first = self.sink(service, broker, "a")
        first.write([batch(0, 10, owner="a", days=days), batch(0, 4, owner="a", partition=partition(1))])
        first.close()
        second = self.sink(service, broker, "b")
        second.write([batch(0, 10, owner="b", days=days)])
        second.write([batch(10, 15, owner="b"), batch(0, 6, owner="b", partition=partition(1))])
        assert (self.newest(service), self.newest(service, 1)) == (14, 5)
        assert second._writers[0][1].stream.end == 5  # type: ignore[union-attr]
        assert second._writers[1][1].stream.end == 2  # type: ignore[union-attr]
        second.close()

    def test_the_older_of_two_is_fenced(self, service: Service, broker: FakeBroker) -> None:
        older = self.sink(service, broker, "a")
        older.write([batch(0, 10, owner="a")])
        newer = self.sink(service, broker, "b")
        newer.write([batch(0, 12, owner="b")])
        with pytest.raises(Fenced):
            older.write([batch(10, 20, owner="a")])
        assert self.newest(service) == 11
        newer.close()
        older.close()
