"""The partner as a destination: every event of a Kafka partition once, in offset order, over HTTP.

Before each request one fenced Kafka transaction stores `offset_next` and the range in flight, so a process that dies
with a request unanswered is followed by one that repeats it: the same events, the same shape, the same key. That
transaction is also the acknowledgement of the request before it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import msgspec
import numpy as np
import structlog

import metrics
from sinks.batches import Batch, SharedSink, by_partition, is_needed, not_owned
from sinks.fenced_commit import DeadLetterRecord, Position, dead_letter
from sinks.partner_client import SINK, Answer, PartnerClient, Patience, PatientPartner, Verdict
from sinks.partner_requests import Outgoing, Request, Stored, idempotency_key, requests
from sources.positions import Claim, FlowStopped, PartitionId, Span

log = structlog.get_logger()

SETTLE_S = 2.0  # a position moves on at least this often, also where no request stores it
FENCE_CHECK_S = 30.0  # a request is not repeated on the strength of an older proof of ownership
REASONS = {Verdict.REFUSED: "refused", Verdict.TOO_LARGE: "too_large"}


@dataclass(slots=True)
class _Partition:
    """Where this sink stands in one Kafka partition.

    offset_next  first offset that the partner has not acknowledged, nor the dead letters
    stored       (offset_next, metadata) as Kafka has them; stored_at: monotonic seconds
    in_flight    of the predecessor: the first request repeats it
    held         the beginning of that range, while its end has not been read. The stored position lies before it, so
                 nothing can be forgotten: this is the one thing kept from one write_batch to the next
    seen         end of what was read: offset_next, or the end of what is held
    """

    id: PartitionId
    owner: str
    position: Position
    offset_next: int
    stored: tuple[int, Stored]
    in_flight: Stored
    stored_at: float
    seen: int
    held: list[Outgoing] = field(default_factory=list)


class PartnerSink(SharedSink):
    """At most one effect per event at a partner that honours Idempotency-Key; at least one at any other.

    bodies       (batch, rows) -> the JSON object of each row
    position     the fenced position of one Kafka partition (sinks.fenced_commit.FencedCommit)
    dead_letters topic that takes what the partner refuses for what it is
    passed       (partition, offset) -> has an operator said to pass this event? Asked while the breaker is open
    now_ms       wall clock, milliseconds since 1970

    Everything is acknowledged when write_batch returns; the position in Kafka follows with the next request, within
    SETTLE_S, or at once when idle or stopping. Events addressed to another sink are passed over.
    """

    name = SINK

    def __init__(
        self,
        url: str,
        token: str,
        *,
        batch_size: int,
        timeout_s: float,
        bodies: Callable[[Any, Sequence[int]], list[bytes]],
        position: Callable[[PartitionId], Position],
        dead_letters: str,
        stopping: Callable[[], bool],
        abandon: Callable[[], NoReturn],
        passed: Callable[[PartitionId, int], bool] = lambda partition, offset: False,
        patience: Patience | None = None,
        client: PartnerClient | None = None,
        now_ms: Callable[[], int] = lambda: int(time.time() * 1000),
    ) -> None:
        self._batch_size = batch_size
        self._bodies = bodies
        self._position = position
        self._dead_letters = dead_letters
        self._passed = passed
        self._stopping = stopping
        self._now_ms = now_ms
        self._partitions: dict[int, _Partition] = {}
        self._partner = PatientPartner(
            client or PartnerClient(url, token, timeout_s),
            patience or Patience(),
            stopping=stopping,
            abandon=abandon,
            meanwhile=self._while_waiting,
        )

    @property
    def last_error(self) -> str | None:
        """Why the partner takes nothing at the moment, in words; None while it does. For /health."""
        return self._partner.last_error

    @property
    def breaker_open(self) -> bool:
        return self._partner.breaker_open

    def claim(self, partition: PartitionId, owner: str) -> Claim:
        """Fence the predecessor, read position and range in flight. Raises FlowStopped where there is no position."""
        if replaced := self._partitions.pop(partition.partition, None):
            replaced.position.close()
        position = self._position(partition)
        committed = position.open()
        try:
            stored = msgspec.json.decode(committed.metadata or "{}", type=Stored)
        except msgspec.DecodeError as error:
            raise FlowStopped(
                f"The position of sink {SINK} in partition {partition.partition} of {partition.topic} holds "
                f"{committed.metadata!r}, which this version does not understand ({error}): run the version that wrote "
                f"it, or set it with: python -m operations.provision --position {SINK}=OFFSET"
            ) from None
        offset_next = committed.offset_next
        self._partitions[partition.partition] = _Partition(
            partition, owner, position, offset_next, (offset_next, stored), stored, time.monotonic(), offset_next
        )
        run = [entry for entry in self._partner.refused_in_a_row if entry[0] != partition.partition]
        self._partner.refused_in_a_row = run + [(partition.partition, offset) for offset in stored.refused]
        return Claim(offset_next)

    def write(self, batches: Sequence[Batch], /) -> None:
        """Deliver the batches, which may be of several partitions, each in offset order."""
        for joined in by_partition(batches).values():
            self._write(self._claimed(joined[0].span), joined)

    def close(self) -> None:
        self._partner.close()
        for state in self._partitions.values():
            state.position.close()

    def _claimed(self, span: Span) -> _Partition:
        state = self._partitions.get(span.partition.partition)
        if state is None or state.id != span.partition:
            raise not_owned(span, SINK)
        return state

    def _write(self, state: _Partition, batches: Sequence[Batch]) -> None:
        events = state.held + [event for batch in batches for event in self._fresh(state, batch)]
        if state.in_flight.to is not None and state.seen < state.in_flight.to:
            state.held = events
        else:
            made = requests(events, state.offset_next, state.seen, self._batch_size, state.in_flight)
            self._check_repeated(state, made)
            for request in made:
                self._deliver(state, request)
            state.in_flight, state.held = Stored(), []
            state.offset_next = state.seen
        self._settle(state, idle=all(len(batch.offsets) == 0 for batch in batches))

    def _fresh(self, state: _Partition, batch: Batch) -> list[Outgoing]:
        """The events of the batch that this sink still needs and takes."""
        if not is_needed(batch.span, SINK, state.owner, state.seen):
            return []
        seen, state.seen = state.seen, batch.span.offset_next
        rows = [
            row
            for row in range(int(np.searchsorted(batch.offsets, seen)), len(batch.offsets))
            if batch.targets is None or batch.targets[row] in (None, SINK)
        ]
        bodies = self._bodies(batch, rows) if rows else []
        return [Outgoing(int(batch.offsets[row]), body, batch, row) for row, body in zip(rows, bodies, strict=True)]

    def _check_repeated(self, state: _Partition, made: Sequence[Request]) -> None:
        """The repeated range must hold the events it held: another number of them would be another request."""
        if state.in_flight.to is not None and len(made[0].events) != state.in_flight.events:
            raise FlowStopped(
                f"Offsets {state.offset_next} to {state.in_flight.to} of partition {state.id.partition} of "
                f"{state.id.topic} went to the partner with {state.in_flight.events} events and now hold "
                f"{len(made[0].events)}: the rules of this version differ from those of the one that sent them. Run "
                f"that version until it has settled, or ask the partner and then run: python -m operations.provision "
                f"--position {SINK}={state.in_flight.to}"
            )

    def _deliver(self, state: _Partition, request: Request) -> None:
        """Send; a refused request goes out again in halves, in order, until the culprit stands alone."""
        waiting = [request]
        while waiting:
            request = waiting.pop()
            self._store_in_flight(state, request)
            offsets = [event.offset for event in request.events]
            key = idempotency_key(state.id, offsets)
            answer = self._partner.deliver(request.body(), key, self._holding(state, request))
            if answer.verdict is Verdict.ACCEPTED:
                self._accepted(state, request)
            elif len(request.events) > 1:
                log.info(
                    "partner_request_split",
                    partition=state.id.partition,
                    offset=offsets[0],
                    events=len(offsets),
                    status=answer.status,
                    idempotency_key=key,
                )
                waiting.extend(reversed(request.halves()))
            else:
                self._refused(state, request, answer, key)

    def _store_in_flight(self, state: _Partition, request: Request) -> None:
        wanted = Stored(request.offset_next, len(request.events), request.array, self._refused_here(state))
        self._commit(state, request.offset_from, wanted)

    def _accepted(self, state: _Partition, request: Request) -> None:
        state.offset_next = request.offset_next
        self._partner.refused_in_a_row.clear()
        newest = request.events[-1]
        metrics.SINK_EVENTS.labels(SINK).inc(len(request.events))
        age_ms = self._now_ms() - int(newest.batch.timestamps_ms[newest.index])
        metrics.LATENCY.labels(SINK).observe(max(age_ms, 0) / 1000)

    def _refused(self, state: _Partition, request: Request, answer: Answer, key: str) -> None:
        """The dead letter and the position behind it, in one transaction; all before it is acknowledged."""
        [event] = request.events
        reason = REASONS[answer.verdict]
        letter = dead_letter(
            event.batch.keys[event.index],
            event.batch.values[event.index],
            reason=reason,
            detail=_detail(answer),
            sink=SINK,
            topic=state.id.topic,
            partition=state.id.partition,
            offset=event.offset,
            rejected_at_ms=self._now_ms(),
            kafka_timestamp_ms=int(event.batch.timestamps_ms[event.index]),
            event_id=event.batch.event_ids[event.index],
        )
        if not self._partner.distrusted:
            self._partner.refused_in_a_row.append((state.id.partition, event.offset))
        self._commit(state, request.offset_next, Stored(refused=self._refused_here(state)), [letter])
        state.offset_next = request.offset_next
        metrics.DEAD_LETTERS.labels(SINK, reason).inc()
        log.warning(
            "partner_refused",
            partition=state.id.partition,
            offset=event.offset,
            event_id=event.batch.event_ids[event.index],
            status=answer.status,
            reason=reason,
            detail=answer.words,
            idempotency_key=key,
        )

    def _holding(self, state: _Partition, request: Request) -> Callable[[Answer], str | None]:
        """Why a refusal must not stand: it is the twentieth in a row, and nobody has passed the event by hand."""

        def hold(answer: Answer) -> str | None:
            if len(request.events) > 1 or not self._partner.distrusted:
                return None
            offset = request.events[0].offset
            if self._passed(state.id, offset):
                log.warning("partner_event_passed_by_hand", partition=state.id.partition, offset=offset)
                return None
            before = ", ".join(f"{partition}:{at}" for partition, at in self._partner.refused_in_a_row)
            return (
                f"the partner refused {len(self._partner.refused_in_a_row) + 1} events in a row, each alone, the last "
                f"with {answer.status} ({answer.words}): partition {state.id.partition} waits at offset {offset} until "
                f"it is accepted, or passed with: python -m operations.dead_letters pass {SINK} {state.id.partition} "
                f"{offset}. Those before it (partition:offset) are dead letters and can be replayed: {before}"
            )

        return hold

    def _refused_here(self, state: _Partition) -> tuple[int, ...]:
        run = self._partner.refused_in_a_row
        return tuple(offset for partition, offset in run if partition == state.id.partition)

    def _settle(self, state: _Partition, idle: bool) -> None:
        """Store what was acknowledged or passed over, unless the next request is about to; renew an idle position."""
        if state.in_flight.to is None:
            due = idle or self._stopping() or time.monotonic() - state.stored_at >= SETTLE_S
            if due:
                self._commit(state, state.offset_next, Stored(refused=self._refused_here(state)))
        state.position.renew(self._now_ms() / 1000)

    def _commit(
        self, state: _Partition, offset_next: int, extra: Stored, letters: Sequence[DeadLetterRecord] = ()
    ) -> None:
        """One transaction; none where Kafka has it already."""
        if (offset_next, extra) == state.stored and not letters:
            return
        text = msgspec.json.encode(extra).decode()
        state.position.commit(offset_next, text, letters, self._dead_letters if letters else None)
        state.stored, state.stored_at = (offset_next, extra), time.monotonic()

    def _while_waiting(self) -> None:
        """Before a repetition: prove again that the partitions are ours, and keep their positions from expiring."""
        for state in self._partitions.values():
            if time.monotonic() - state.stored_at >= FENCE_CHECK_S:
                offset_next, extra = state.stored
                state.position.commit(offset_next, msgspec.json.encode(extra).decode())
                state.stored_at = time.monotonic()


def _detail(answer: Answer) -> str:
    words = f": {answer.words}" if answer.words else ""
    if answer.verdict is Verdict.TOO_LARGE:
        return (
            f"The partner answered {answer.status} to this event alone{words}. Shorten it, or agree on a larger size."
        )
    return f"The partner answered {answer.status} to this event alone{words}. Correct the event, then replay it."
