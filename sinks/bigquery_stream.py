"""One write stream of BigQuery and the connection to it: frozen requests at explicit offsets, and their answers.

Offsets make pipelined requests fail in order: when one does not land, those behind it get OUT_OF_RANGE. So what has
landed is always a prefix of what was sent, which is what makes "the largest offset in the table" mean "all up to here".
"""

import queue
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import chain, repeat
from typing import Any

import structlog
from google.api_core.gapic_v1 import routing_header
from google.cloud.bigquery_storage_v1.types import AppendRowsRequest, StorageError
from google.rpc import code_pb2
from grpc_status import rpc_status

from sinks.bigquery_client import Away
from sources.positions import Fenced, FlowStopped

log = structlog.get_logger()

IN_FLIGHT_MAX = 8  # requests
ACK_SECONDS = 20.0  # without an answer the connection is given up and the requests go out again
STOP_SECONDS = 5.0  # how long an answer is still waited for after a stop request

Code = StorageError.StorageErrorCode


class Verdict(Enum):
    """What an answer says about its request, and so what is to be done."""

    LANDED = "landed"
    REFUSED = "refused"  # for what its rows are: none of them landed
    GAP = "gap"  # a request before it did not land
    FENCED = "fenced"  # the stream is finalised or gone: another process has taken over, or it expired
    AWAY = "away"  # the same again, on a new connection
    STOP = "stop"  # somebody must act


BY_DETAIL = {
    Code.OFFSET_ALREADY_EXISTS: Verdict.LANDED,
    Code.OFFSET_OUT_OF_RANGE: Verdict.GAP,
    Code.STREAM_FINALIZED: Verdict.FENCED,
    Code.STREAM_NOT_FOUND: Verdict.FENCED,
    Code.INVALID_STREAM_STATE: Verdict.FENCED,
    Code.STREAM_ALREADY_COMMITTED: Verdict.FENCED,
    Code.TABLE_NOT_FOUND: Verdict.STOP,
    Code.INVALID_STREAM_TYPE: Verdict.STOP,
    Code.SCHEMA_MISMATCH_EXTRA_FIELDS: Verdict.STOP,
    Code.CMEK_NOT_PROVIDED: Verdict.STOP,
    Code.INVALID_CMEK_PROVIDED: Verdict.STOP,
    Code.CMEK_ENCRYPTION_ERROR: Verdict.STOP,
    Code.KMS_SERVICE_ERROR: Verdict.AWAY,
    Code.KMS_PERMISSION_DENIED: Verdict.STOP,
}
BY_CODE = {
    code_pb2.OK: Verdict.LANDED,
    code_pb2.ALREADY_EXISTS: Verdict.LANDED,
    code_pb2.OUT_OF_RANGE: Verdict.GAP,
    code_pb2.FAILED_PRECONDITION: Verdict.FENCED,
    code_pb2.INVALID_ARGUMENT: Verdict.REFUSED,
    **dict.fromkeys(
        (
            code_pb2.ABORTED,
            code_pb2.UNAVAILABLE,
            code_pb2.CANCELLED,
            code_pb2.INTERNAL,
            code_pb2.DEADLINE_EXCEEDED,
            code_pb2.UNKNOWN,
            code_pb2.RESOURCE_EXHAUSTED,
        ),
        Verdict.AWAY,
    ),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """One response: gRPC code, BigQuery's own code where there is one, words, and the refused rows by their number."""

    code: int
    detail: int | None = None
    text: str = ""
    rows: Mapping[int, str] | None = None
    offset: int | None = None  # where it landed, if BigQuery says so

    @property
    def verdict(self) -> Verdict:
        if self.rows:
            return Verdict.REFUSED
        if self.detail in BY_DETAIL:
            return BY_DETAIL[self.detail]
        if self.code in (code_pb2.INVALID_ARGUMENT, code_pb2.NOT_FOUND):
            # Detail lost on the way: the words are all there is.
            if re.search(r"finali[sz]ed|stream.*not found|not found.*stream", self.text, re.IGNORECASE):
                return Verdict.FENCED
            if re.search(r"schema", self.text, re.IGNORECASE):
                return Verdict.STOP
        return BY_CODE.get(self.code, Verdict.STOP)


@dataclass(frozen=True, slots=True)
class Append:
    """One request, never changed once made: `rows` rows as a serialised Arrow record batch, for `offset` rows into
    the stream. `tag` is the caller's."""

    offset: int
    rows: int
    body: bytes
    tag: Any = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request of which nothing landed because of what it holds; those before it landed, those behind it did not.

    rows  number of each refused row -> why; empty: BigQuery named none"""

    append: Append
    rows: Mapping[int, str]
    text: str


class AppendStream:
    """A COMMITTED stream that this process alone appends to; one thread.

    end  rows that have landed and were acknowledged. `send` queues requests, `settle` returns when all have landed or
    one was refused. `settle` raises Away where the connection failed (call it again: the same requests go out again at
    their offsets), Fenced where the stream was finalised or is gone, FlowStopped where somebody must act.
    """

    def __init__(
        self,
        transport: Any,
        name: str,
        schema: bytes,
        *,
        stopping: Callable[[], bool] = lambda: False,
        ack_seconds: float = ACK_SECONDS,
    ) -> None:
        self.name, self.end = name, 0
        self._transport, self._schema, self._stopping = transport, schema, stopping
        self._ack_seconds = ack_seconds
        self._connection: _Connection | None = None
        self._waiting: deque[Append] = deque()
        self._sent = 0  # of the waiting ones, on this connection
        self._lost_end = 0  # a lost connection may still deliver requests up to here
        self._gaps = 0

    @property
    def clean(self) -> bool:
        """No request of a lost connection can still land: rows may be given other offsets than they were sent with."""
        return self.end >= self._lost_end

    def send(self, appends: Sequence[Append]) -> None:
        """Queue requests and put the first on the wire; answers are taken by `settle`."""
        self._waiting.extend(appends)
        if self._connection is not None and self._connection.ended:
            self._lose()  # an idle connection is closed by the service after ten minutes
        if self._connection is not None:
            self._fill(self._connection)

    def settle(self) -> Refusal | None:
        while self._waiting:
            connection = self._connected()
            self._fill(connection)
            append, answer = self._waiting[0], self._answer(connection)
            verdict = answer.verdict
            if verdict is Verdict.LANDED:
                self._landed(append, answer)
            elif verdict is Verdict.REFUSED:
                self._drain(connection)
                self._waiting.clear()
                self._sent = 0
                return Refusal(append, answer.rows or {}, answer.text)
            else:
                self._failed(verdict, append, answer)
        return None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _connected(self) -> "_Connection":
        if self._connection is None:
            self._connection = _Connection(self._transport, self.name, self._request)
            self._sent = 0
        return self._connection

    def _fill(self, connection: "_Connection") -> None:
        while self._sent < min(len(self._waiting), IN_FLIGHT_MAX):
            connection.send(self._waiting[self._sent])
            self._sent += 1

    def _request(self, append: Append, first: bool) -> Any:
        # The plain protobuf class: filling the wrapper costs ten times as much.
        raw = AppendRowsRequest.pb(AppendRowsRequest())
        raw.write_stream = self.name
        raw.offset.value = append.offset
        raw.arrow_rows.rows.serialized_record_batch = append.body
        if first:
            raw.arrow_rows.writer_schema.serialized_schema = self._schema
        return AppendRowsRequest.wrap(raw)

    def _answer(self, connection: "_Connection") -> Answer:
        """The next answer. A lost connection raises Away, unless its end is itself an answer (fenced, refused)."""
        deadline = time.monotonic() + self._ack_seconds
        stop_at: float | None = None
        while (answer := connection.next(0.1)) is None:
            now = time.monotonic()
            if stop_at is None and self._stopping():
                stop_at = now + STOP_SECONDS
            if now >= deadline or (stop_at is not None and now >= stop_at):
                self._lose()
                raise Away(f"no answer from {self.name} in {self._ack_seconds:g} s")
        return answer

    def _landed(self, append: Append, answer: Answer) -> None:
        if answer.offset not in (None, append.offset):  # answers come in order: one is missing
            self._lose()
            raise Away(f"answer for row {answer.offset} instead of {append.offset}")
        expected = re.search(r"expected offset (\d+)", answer.text)
        if expected and int(expected[1]) < append.offset + append.rows:
            raise FlowStopped(
                f"Stream {self.name} ends at row {expected[1]}, inside a request of this process (rows {append.offset} "
                f"to {append.offset + append.rows}): somebody else writes to it. Compare: docs/runbook.md"
            )
        self._waiting.popleft()
        self._sent -= 1
        self._gaps = 0
        self.end = append.offset + append.rows

    def _drain(self, connection: "_Connection") -> None:
        """After a refusal: take in the answers to all in flight behind it; none of them can have landed."""
        for _ in range(self._sent - 1):
            try:
                answer = self._answer(connection)
            except Away:
                return
            if connection.ended and answer.verdict is Verdict.AWAY:
                self._lose()
                return
            if answer.verdict is Verdict.LANDED:
                raise FlowStopped(
                    f"Stream {self.name} took a request behind one that it refused: its rows are no longer in offset "
                    "order. Compare: docs/runbook.md"
                )

    def _failed(self, verdict: Verdict, append: Append, answer: Answer) -> None:
        self._lose()
        if verdict is Verdict.FENCED:
            raise Fenced(
                f"Stream {self.name} is finalised or gone ({answer.text}): another process has taken over its Kafka "
                "partition, or it stood idle for days. This process ends. The next start goes on without gap or double."
            )
        if verdict is Verdict.GAP:
            self._gaps += 1
            if self._gaps > 1:
                raise FlowStopped(
                    f"Stream {self.name} refuses row {append.offset} as beyond its end, twice ({answer.text}): rows "
                    "that it had acknowledged are missing. Start again. If it persists, compare: docs/runbook.md"
                )
        if verdict is Verdict.STOP:
            raise FlowStopped(
                f"BigQuery refuses appends to {self.name} (code {answer.code}: {answer.text}): compare table and "
                "permissions with: python -m operations.provision --check"
            )
        raise Away(answer.text or f"code {answer.code}")

    def _lose(self) -> None:
        """Give the connection up. What it carried unanswered may land at any time until its offsets are taken."""
        if self._sent:
            last = self._waiting[self._sent - 1]
            self._lost_end = max(self._lost_end, last.offset + last.rows)
        self.close()
        self._sent = 0


class _Connection:
    """One AppendRows call: gRPC takes requests from a queue on its thread, a reader puts answers into another.

    request  (append, is it the first?) -> what goes on the wire; made when gRPC takes it, so that of all that waits
             there is one copy, not three
    """

    def __init__(self, transport: Any, stream: str, request: Callable[[Append, bool], Any]) -> None:
        self.ended = False  # the call is over; answers may still be waiting
        self._appends: queue.SimpleQueue[Append | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        # Not client.append_rows: it waits for the first answer before the first request can be made.
        header = routing_header.to_grpc_metadata((("write_stream", stream),))  # type: ignore[no-untyped-call]
        requests = map(request, iter(self._appends.get, None), chain([True], repeat(False)))
        self._call = transport.append_rows(requests, metadata=(header,))
        threading.Thread(target=self._read, args=(self._call,), name=f"acks {stream[-16:]}", daemon=True).start()

    def send(self, append: Append) -> None:
        self._appends.put(append)

    def next(self, seconds: float) -> Answer | None:
        """The next answer, None when there is none yet. The end of the call is the last answer, again and again."""
        try:
            answer = self._answers.get(timeout=seconds)
        except queue.Empty:
            return Answer(code_pb2.UNAVAILABLE, text="connection closed") if self.ended else None
        return answer

    def close(self) -> None:
        self._appends.put(None)
        self._call.cancel()

    def _read(self, call: Iterator[Any]) -> None:
        end = Answer(code_pb2.UNAVAILABLE, text="the service closed the connection")
        try:
            for response in call:
                if response.updated_schema.fields:
                    log.info("bigquery_schema_changed", stream=response.write_stream)
                self._answers.put(_answer(response))
        except Exception as failure:  # whatever ends the call is an answer to all that wait
            end = _ending(failure)
        self._answers.put(end)
        self.ended = True


def _answer(response: Any) -> Answer:
    error = response.error
    rows = {int(row.index): str(row.message) for row in response.row_errors}
    if not error.code and not rows:
        return Answer(code_pb2.OK, offset=response.append_result.offset)
    return Answer(error.code or code_pb2.INVALID_ARGUMENT, _detail(error.details), error.message, rows)


def _ending(failure: Any) -> Answer:
    """The status that ended a call."""
    code = getattr(failure, "code", None)
    if not callable(code):
        return Answer(code_pb2.UNKNOWN, text=str(failure))
    status = rpc_status.from_call(failure)
    detail = _detail(status.details) if status is not None else None
    return Answer(code().value[0], detail, str(failure.details()))


def _detail(details: Any) -> int | None:
    """BigQuery's own code from the details of a google.rpc.Status."""
    for packed in details:
        if packed.type_url.endswith("google.cloud.bigquery.storage.v1.StorageError"):
            return int(StorageError.deserialize(packed.value).code)
    return None
