"""A BigQuery that acknowledges at once: python -m tests.performance.write_api REST_PORT GRPC_PORT COUNTER_FILE

Storage Write API over real gRPC, and just enough of REST for the sink's questions about streams and landed rows. It
keeps no row: how many came (COUNTER_FILE) and the largest offset of each partition.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
from google.cloud.bigquery_storage_v1.types import (
    AppendRowsRequest,
    AppendRowsResponse,
    CreateWriteStreamRequest,
    FinalizeWriteStreamRequest,
    FinalizeWriteStreamResponse,
    WriteStream,
)

from tests.performance.counter_file import CounterFile

SERVICE = "google.cloud.bigquery.storage.v1.BigQueryWrite"
Fields = list[tuple[str, str]]  # name, type


class Table:
    """Which streams are registered, and how far each dataset's partitions have landed."""

    def __init__(self, rows: CounterFile) -> None:
        self.rows = rows
        self.streams = 0
        self.registered: list[dict[str, Any]] = []
        self.newest: dict[tuple[str, int], int] = defaultdict(lambda: -1)

    def landed(self, stream: str, batch: pa.RecordBatch) -> None:
        place = (stream.split("/")[3], batch.column("kafka_partition")[0].as_py())
        self.newest[place] = max(self.newest[place], batch.column("kafka_offset")[-1].as_py())
        self.rows.add(batch.num_rows)

    def answer(self, sql: str, parameters: dict[str, Any]) -> tuple[Fields, list[list[Any]]]:
        """Columns and rows of one of the statements of sinks.bigquery_ledger."""
        dataset = sql.split("`")[1].split(".")[1]
        if sql.lstrip().startswith("INSERT"):
            for number in range(sql.count("CURRENT_TIMESTAMP()")):
                entry = {name: parameters[f"{name[0]}{number}"] for name in ("partition", "claim", "stream")}
                self.registered.append({"dataset": dataset, "topic_id": parameters["epoch"], **entry})
            return [], []
        if "MAX(kafka_offset)" in sql:
            newest = self.newest[dataset, int(parameters["partition"])]
            found = newest if newest >= int(parameters["offset_from"]) else None
            return [("newest", "INTEGER"), ("named", "INTEGER")], [[found, int(parameters["named"] is not None)]]
        known = [
            [entry["partition"], entry["claim"], entry["stream"]]
            for entry in self.registered
            if (entry["dataset"], entry["topic_id"]) == (dataset, parameters["epoch"])
            and entry["partition"] in parameters["partitions"]
        ]
        return [("kafka_partition", "INTEGER"), ("claim", "INTEGER"), ("stream", "STRING")], known


class WriteApi:
    """The gRPC side."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def start(self, port: int) -> None:
        handlers = {
            "AppendRows": grpc.stream_stream_rpc_method_handler(
                self._append, AppendRowsRequest.pb().FromString, AppendRowsResponse.serialize
            ),
            "CreateWriteStream": grpc.unary_unary_rpc_method_handler(
                self._create, CreateWriteStreamRequest.deserialize, WriteStream.serialize
            ),
            "FinalizeWriteStream": grpc.unary_unary_rpc_method_handler(
                lambda request, context: FinalizeWriteStreamResponse(),
                FinalizeWriteStreamRequest.deserialize,
                FinalizeWriteStreamResponse.serialize,
            ),
        }
        self._server = grpc.server(ThreadPoolExecutor(32), options=[("grpc.max_receive_message_length", -1)])
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        self._server.add_insecure_port(f"127.0.0.1:{port}")
        self._server.start()

    def _create(self, request: Any, context: Any) -> Any:
        self._table.streams += 1
        name = f"{request.parent}/streams/s{self._table.streams}"
        return WriteStream(name=name, type_=request.write_stream.type_)

    def _append(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        stream, schema = "", pa.schema([])
        for request in requests:
            stream = request.write_stream or stream
            if request.arrow_rows.writer_schema.serialized_schema:
                schema = pa.ipc.read_schema(pa.py_buffer(request.arrow_rows.writer_schema.serialized_schema))
            body = pa.py_buffer(request.arrow_rows.rows.serialized_record_batch)
            self._table.landed(stream, pa.ipc.read_record_batch(body, schema))
            yield AppendRowsResponse(append_result={"offset": request.offset.value}, write_stream=stream)


def rest(table: Table) -> type[BaseHTTPRequestHandler]:
    """jobs.insert answers with a job that is done; getQueryResults with its rows."""
    answers: dict[str, dict[str, Any]] = {}

    class Rest(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # head and body go out apart: 40 ms between them, twice per question

        def do_POST(self) -> None:
            job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            query = job["configuration"]["query"]
            fields, rows = table.answer(query["query"], _parameters(query))
            kind = "SELECT" if fields else "INSERT"
            job["status"] = {"state": "DONE"}
            job["statistics"] = {"query": {"statementType": kind, "totalBytesProcessed": "0"}}
            answers[job["jobReference"]["jobId"]] = {
                "jobReference": job["jobReference"],
                "jobComplete": True,
                "schema": {"fields": [{"name": name, "type": type_, "mode": "NULLABLE"} for name, type_ in fields]},
                "totalRows": str(len(rows)),
                "rows": [{"f": [{"v": None if v is None else str(v)} for v in row]} for row in rows],
            }
            answers[f"job {job['jobReference']['jobId']}"] = job
            self._say(job)

        def do_GET(self) -> None:
            path = self.path.split("?")[0].split("/")
            self._say(answers[path[-1] if path[-2] == "queries" else f"job {path[-1]}"])

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def _say(self, answer: dict[str, Any]) -> None:
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Rest


def _parameters(query: dict[str, Any]) -> dict[str, Any]:
    """name -> value of the query's parameters; INT64 as int, arrays as lists."""
    found: dict[str, Any] = {}
    for each in query.get("queryParameters", []):
        kind, value = each["parameterType"], each["parameterValue"]
        if kind["type"] == "ARRAY":
            found[each["name"]] = [int(item["value"]) for item in value["arrayValues"]]
        else:
            text = value.get("value")
            found[each["name"]] = int(text) if kind["type"] == "INT64" and text is not None else text
    return found


def main(rest_port: str, grpc_port: str, counter: str) -> None:
    table = Table(CounterFile(Path(counter)))
    WriteApi(table).start(int(grpc_port))
    ThreadingHTTPServer(("127.0.0.1", int(rest_port)), rest(table)).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
