"""BigQuery's Storage Write API in memory, over real gRPC, with faults to switch on. It is held to the contract of
tests/integration/sinks/test_bigquery_contract.py together with the emulator.

Requests that have arrived live on without their connection, as in the real service's queues: a held request may land
after its client is dead. What it cannot do: SQL (a ledger over the same rows stands in), schemas, quotas, time.
"""

import contextlib
import pickle
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
import pyarrow as pa
from google.cloud.bigquery_storage_v1.types import (
    AppendRowsRequest,
    AppendRowsResponse,
    CreateWriteStreamRequest,
    FinalizeWriteStreamRequest,
    FinalizeWriteStreamResponse,
    RowError,
    StorageError,
    WriteStream,
)
from google.rpc import code_pb2, status_pb2

from sinks.bigquery_client import BigQueryTable
from sinks.bigquery_ledger import Entry, Landed
from sources.positions import PartitionId

SERVICE = "google.cloud.bigquery.storage.v1.BigQueryWrite"
REMOTE = "fake.Remote"
DETAIL = "type.googleapis.com/google.cloud.bigquery.storage.v1.StorageError"
Code = StorageError.StorageErrorCode
DAY_US = 86_400_000_000


@dataclass
class Fault:
    """What happens to one append request.

    hold      wait before it is looked at until `gate` opens, whether or not its client still lives
    drop_ack  it lands, the answer is lost, and all later answers on this connection (they come in order)
    error     (gRPC code, StorageError code or None, text): answered in band, nothing lands
    cut       the connection ends here; this request and those behind it land late, when `gate` opens, if it ever does
    """

    hold: bool = False
    drop_ack: bool = False
    error: tuple[int, int | None, str] | None = None
    cut: bool = False
    gate: threading.Event = field(default_factory=threading.Event)


@dataclass
class Stream:
    """One write stream; `rows` counts what landed."""

    rows: int = 0
    finalised: bool = False


class FakeBigQuery:
    """A server with one table.

    rows       what landed, in order;  registry: what was registered
    faults     number of an append request (0: the next one to arrive after `expect()`) -> Fault
    refuses    row -> why BigQuery refuses it, None: it takes it
    appends    (stream, offset, rows, outcome) of each request that was looked at, in order
    fence      False: finalised streams still take rows (the control that shows what the fence is for)
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.streams: dict[str, Stream] = {}
        self.rows: list[dict[str, Any]] = []
        self.registry: list[tuple[str, str, Entry]] = []
        self.questions: list[tuple[int, tuple[int, ...]]] = []  # (offset_from, days) of each question to the table
        self.appends: list[tuple[str, int, int, str]] = []
        self.faults: dict[int, Fault] = {}
        self.refuses: Callable[[dict[str, Any]], str | None] = lambda row: None
        self.always: Fault | None = None
        self.fence = True
        self.down = False
        self.arrived = self.created = 0
        self.objects: dict[str, Any] = {"ledger": FakeLedger(self)}
        self.ended = threading.Event()  # sinks of a test that is over end with it
        self._connections: list[_Connection] = []
        self._server: grpc.Server | None = None
        self.address = ""

    def start(self) -> "FakeBigQuery":
        self._server = grpc.server(ThreadPoolExecutor(64))
        handlers = {
            "AppendRows": grpc.stream_stream_rpc_method_handler(
                self._append_rows, AppendRowsRequest.deserialize, AppendRowsResponse.serialize
            ),
            "CreateWriteStream": grpc.unary_unary_rpc_method_handler(
                self._create, CreateWriteStreamRequest.deserialize, WriteStream.serialize
            ),
            "FinalizeWriteStream": grpc.unary_unary_rpc_method_handler(
                self._finalise, FinalizeWriteStreamRequest.deserialize, FinalizeWriteStreamResponse.serialize
            ),
        }
        remote = {"Call": grpc.unary_unary_rpc_method_handler(self._remote)}
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(SERVICE, handlers),
                grpc.method_handlers_generic_handler(REMOTE, remote),
            )
        )
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()
        return self

    def stop(self) -> None:
        self.ended.set()
        for fault in [*self.faults.values(), *([self.always] if self.always else [])]:
            fault.gate.set()
        for connection in self._connections:
            connection.end()
        assert self._server is not None
        self._server.stop(0).wait()

    @property
    def table(self) -> BigQueryTable:
        return BigQueryTable("test", "fake", "enriched_events", grpc=self.address)

    def expect(self, faults: dict[int, Fault]) -> None:
        """Faults of the requests that arrive from now on, counted from 0."""
        with self.lock:
            self.faults, self.arrived = faults, 0

    def finalise(self, stream: str) -> None:
        self.streams[stream].finalised = True

    def forget(self, stream: str) -> None:
        """As after three idle days: the handle is gone, its rows stay."""
        del self.streams[stream]

    def cut_connections(self) -> None:
        """As after ten idle minutes."""
        for connection in self._connections:
            connection.cut()

    def offsets(self, partition: int = 0) -> list[int]:
        """Kafka offsets in the table, in the order in which they landed."""
        return [row["kafka_offset"] for row in self.rows if row["kafka_partition"] == partition]

    def open_streams(self) -> list[str]:
        return [name for name, stream in self.streams.items() if not stream.finalised]

    def _create(self, request: Any, context: Any) -> Any:
        self._check_up(context)
        with self.lock:
            self.created += 1
            name = f"{request.parent}/streams/s{self.created:04d}"
            self.streams[name] = Stream()
        return WriteStream(name=name, type_=request.write_stream.type_)

    def _finalise(self, request: Any, context: Any) -> Any:
        self._check_up(context)
        with self.lock:
            stream = self.streams.get(request.name)
            if stream is None:
                context.abort(grpc.StatusCode.NOT_FOUND, f"stream {request.name} not found")
            assert stream is not None
            stream.finalised = True
            return FinalizeWriteStreamResponse(row_count=stream.rows)

    def _remote(self, request: bytes, context: Any) -> bytes:
        """A call of an object on this server, for clients in other processes."""
        name, method, arguments = pickle.loads(request)
        try:
            return pickle.dumps((True, getattr(self.objects[name], method)(*arguments)))
        except Exception as failure:
            return pickle.dumps((False, failure))

    def _append_rows(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        self._check_up(context)
        connection = _Connection(self, requests)
        self._connections.append(connection)
        context.add_callback(connection.client_gone)
        while (response := connection.responses.get()) is not None:
            if isinstance(response, grpc.StatusCode):
                context.abort(response, "Closing the stream because of server is restarted")
            yield response

    def _check_up(self, context: Any) -> None:
        if self.down:
            context.abort(grpc.StatusCode.UNAVAILABLE, "the fake is down")

    def fault(self) -> Fault:
        """Of the request that has just arrived."""
        with self.lock:
            number, self.arrived = self.arrived, self.arrived + 1
            return self.faults.get(number) or self.always or Fault()

    def look_at(self, request: Any, rows: Sequence[dict[str, Any]]) -> Any:
        """Land the rows or say why not."""
        with self.lock:
            response, outcome = self._looked_at(request, rows)
            self.appends.append((request.write_stream, int(request.offset), len(rows), outcome))
            return response

    def _looked_at(self, request: Any, rows: Sequence[dict[str, Any]]) -> tuple[Any, str]:
        stream, offset = self.streams.get(request.write_stream), int(request.offset)
        if stream is None:
            return refused(code_pb2.NOT_FOUND, Code.STREAM_NOT_FOUND, "stream not found"), "gone"
        if stream.finalised and self.fence:
            return refused(code_pb2.INVALID_ARGUMENT, Code.STREAM_FINALIZED, "stream is finalized"), "finalised"
        if offset != stream.rows:
            text = f"expected offset {stream.rows}, received {offset}"
            if offset < stream.rows:
                return refused(code_pb2.ALREADY_EXISTS, Code.OFFSET_ALREADY_EXISTS, text), "exists"
            return refused(code_pb2.OUT_OF_RANGE, Code.OFFSET_OUT_OF_RANGE, text), "gap"
        errors = [RowError(index=i, code=1, message=why) for i, row in enumerate(rows) if (why := self.refuses(row))]
        if errors:
            response = refused(code_pb2.INVALID_ARGUMENT, None, "Errors found while processing rows.")
            response.row_errors = errors
            return response, "row_errors"
        stream.rows += len(rows)
        self.rows += rows
        return AppendRowsResponse(append_result={"offset": offset}, write_stream=request.write_stream), "landed"


class _Connection:
    """One AppendRows call: what has arrived is worked off by a thread of its own, which outlives the call."""

    def __init__(self, server: FakeBigQuery, requests: Iterator[Any]) -> None:
        self.responses: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._server, self._arrived = server, queue.SimpleQueue[Any]()
        threading.Thread(target=self._receive, args=(requests,), daemon=True).start()
        threading.Thread(target=self._work, daemon=True).start()

    def client_gone(self) -> None:
        self.responses.put(None)

    def cut(self) -> None:
        self.responses.put(grpc.StatusCode.ABORTED)

    def end(self) -> None:
        self._arrived.put(None)
        self.responses.put(None)

    def _receive(self, requests: Iterator[Any]) -> None:
        with contextlib.suppress(Exception):  # the client went away
            for request in requests:
                self._arrived.put((request, self._server.fault()))
        self._arrived.put(None)

    def _work(self) -> None:
        schema: Any = None
        mute = False
        while (arrived := self._arrived.get()) is not None:
            request, fault = arrived
            written = request.arrow_rows.writer_schema.serialized_schema
            if written:
                schema = pa.ipc.read_schema(pa.py_buffer(written))
            rows = pa.ipc.read_record_batch(
                pa.py_buffer(request.arrow_rows.rows.serialized_record_batch), schema
            ).to_pylist()
            if fault.cut:
                self.cut()
            if fault.hold or fault.cut:
                fault.gate.wait()
            mute = mute or fault.drop_ack
            response = refused(*fault.error) if fault.error is not None else self._server.look_at(request, rows)
            if not mute:
                self.responses.put(response)


def refused(code: int, detail: int | None, text: str) -> Any:
    """An in-band error as the service words it."""
    status = status_pb2.Status(code=code, message=text)
    if detail is not None:
        packed = status.details.add()
        packed.type_url, packed.value = DETAIL, StorageError.serialize(StorageError(code=detail, error_message=text))
    return AppendRowsResponse(error=status)


class FakeLedger:
    """The SQL side over the fake's rows."""

    def __init__(self, server: FakeBigQuery) -> None:
        self._server = server

    def register(self, topic: str, topic_id: str, entries: Sequence[Entry]) -> None:
        self._server.registry += [(topic, topic_id, entry) for entry in entries]

    def registered(self, topic: str, topic_id: str, partitions: Sequence[int]) -> list[Entry]:
        known = self._server.registry
        return sorted(e for t, i, e in known if (t, i) == (topic, topic_id) and e.partition in partitions)

    def prune(self, partition: PartitionId, claim: int) -> None:
        self._server.registry = [
            (topic, topic_id, entry)
            for topic, topic_id, entry in self._server.registry
            if (topic, topic_id, entry.partition) != (partition.topic, partition.topic_id, partition.partition)
            or entry.claim >= claim
        ]

    def landed(self, partition: PartitionId, offset_from: int, days: Iterable[int], named: int | None = None) -> Landed:
        days = set(days)
        self._server.questions.append((offset_from, tuple(sorted(days))))
        with self._server.lock:
            offsets = [
                row["kafka_offset"]
                for row in self._server.rows
                if (row["source_topic"], row["source_epoch"], row["kafka_partition"])
                == (partition.topic, partition.topic_id, partition.partition)
                and row["kafka_offset"] >= offset_from
                and int(row["event_ts"].timestamp()) // 86_400 in days
            ]
        return Landed(max(offsets, default=None), named in offsets)


class Remote:
    """An object on the fake server, called from another process: `Remote(address, "ledger").landed(...)`."""

    def __init__(self, address: str, name: str) -> None:
        self._call = grpc.insecure_channel(address).unary_unary(f"/{REMOTE}/Call")
        self._name = name

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            fine, answer = pickle.loads(self._call(pickle.dumps((self._name, method, arguments))))
            if not fine:
                raise answer
            return answer

        return call
