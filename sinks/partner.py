"""The partner as a destination: every event of a Kafka partition once, in offset order, over HTTP.

Before each range of requests one fenced Kafka transaction stores `offset_next` and the range in flight, so a process
that dies with a request unanswered is followed by one that repeats the range: the same events in the same requests, the
same shape, the same keys. That transaction is also the acknowledgement of the range before it. A range is what waits,
at most RANGE_REQUESTS_MAX requests; nothing is waited for to fill it.

Within a range requests go out on the proof of ownership that its transaction was. A process that was replaced in the
meantime, or wakes from a freeze, sends at most what of the range it still can within FENCE_CHECK_S, under the keys that
its successor uses: before a request with an older proof there is another transaction.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, wait
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, zip_longest
from typing import Any, NoReturn

import msgspec
import numpy as np
import structlog

import metrics
from sinks.batches import Batch, Integers, SharedSink, by_partition, is_needed, not_owned
from sinks.fenced_commit import DeadLetterRecord, Position, dead_letter
from sinks.in_flight import Background
from sinks.partner_client import SINK, Answer, Leaving, PartnerClient, Patience, PatientPartner, Verdict
from sinks.partner_requests import (
    RANGE_REQUESTS_MAX,
    Events,
    Request,
    Stored,
    below,
    count,
    cut,
    idempotency_key,
    planned,
    sizes_of,
    stored_range,
)
from sources.positions import Claim, FlowStopped, PartitionId, Span

log = structlog.get_logger()

SETTLE_S = 2.0  # a position moves on at least this often, also where no request stores it
FENCE_CHECK_S = 1.0  # no request goes out on the strength of an older proof of ownership: a transaction
RENEW_S = 1.0  # while some partitions are written, the positions of the others are looked at this often


@dataclass(slots=True)
class _Partition:
    """Where this sink stands in one Kafka partition.

    offset_next  first offset that the partner has not acknowledged, nor the dead letters
    stored       (offset_next, metadata) as Kafka has them; stored_at: monotonic seconds
    in_flight    of the predecessor: the first request repeats it
    held         the beginning of that range, while its end has not been read. The stored position lies before it, so
                 nothing can be forgotten: this is the one thing kept from one write_batch to the next
    seen         end of what was read: offset_next, or the end of what is held
    pending      the requests of the range that is going out which the partner has not yet acknowledged
    thread       on which they go out
    """

    id: PartitionId
    owner: str
    position: Position
    offset_next: int
    stored: tuple[int, Stored]
    in_flight: Stored
    stored_at: float
    seen: int
    thread: Background
    held: list[Events] = field(default_factory=list)
    pending: deque[Request] = field(default_factory=deque)


@dataclass(frozen=True, slots=True)
class _Fresh:
    """The events of one write that a partition has not seen; idle: nothing was read."""

    state: _Partition
    events: list[Events]
    idle: bool


class PartnerSink(SharedSink):
    """At most one effect per event at a partner that honours Idempotency-Key; at least one at any other.

    values       (batch, rows) -> what `body` makes JSON of, for each row
    body         values -> their JSON objects, with commas between
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
        values: Callable[[Any, Integers], Sequence[Any]],
        body: Callable[[Sequence[Any]], bytes],
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
        self._values, self._body = values, body
        self._position = position
        self._dead_letters = dead_letters
        self._passed = passed
        self._stopping, self._abandon = stopping, abandon
        self._now_ms = now_ms
        self._partitions: dict[int, _Partition] = {}
        self._threads: dict[int, Background] = {}
        self._partner = PatientPartner(
            client or PartnerClient(url, token, timeout_s),
            patience or Patience(),
            stopping=stopping,
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
        thread = self._threads.setdefault(partition.partition, Background(f"partner-{partition.partition}"))
        self._partitions[partition.partition] = _Partition(
            partition,
            owner,
            position,
            offset_next,
            (offset_next, stored),
            stored,
            time.monotonic(),
            offset_next,
            thread,
        )
        run = [entry for entry in self._partner.refused_in_a_row if entry[0] != partition.partition]
        self._partner.refused_in_a_row = run + [(partition.partition, offset) for offset in stored.refused]
        return Claim(offset_next)

    def write(self, batches: Sequence[Batch], /) -> None:
        """Deliver the batches, which may be of several partitions, each in offset order.

        Partitions go side by side, each on a thread of its own: while one waits for an answer, or for Kafka, the others
        send. One after another they took 3.5 times as long."""
        fresh = [self._fresh(self._claimed(joined[0].span), joined) for joined in by_partition(batches).values()]
        writes = [each.state.thread.begin(partial(self._write, each)) for each in fresh]
        self._make_values([each.events for each in fresh])
        written = {each.state.id for each in fresh}
        resting = [state for state in self._partitions.values() if state.id not in written]
        left: Leaving | None = None
        while writes:
            done, under_way = wait(writes, timeout=RENEW_S, return_when=FIRST_EXCEPTION)
            for each in done:
                failure = each.exception()
                if isinstance(failure, Leaving):  # the others store what was acknowledged, too
                    left = failure
                elif failure is not None:
                    raise failure
            writes = list(under_way)
            for state in resting:  # an outage may last for days
                state.position.renew(self._now_ms() / 1000)
        if left is not None:
            self._abandon()

    def close(self) -> None:
        self._partner.close()
        for state in self._partitions.values():
            state.position.close()

    def _claimed(self, span: Span) -> _Partition:
        state = self._partitions.get(span.partition.partition)
        if state is None or state.id != span.partition:
            raise not_owned(span, SINK)
        return state

    def _fresh(self, state: _Partition, batches: Sequence[Batch]) -> _Fresh:
        """What this sink still needs of the batches, which are of one partition, and takes."""
        events = []
        for batch in batches:
            if not is_needed(batch.span, SINK, state.owner, state.seen):
                continue
            seen, state.seen = state.seen, batch.span.offset_next
            rows = np.arange(np.searchsorted(batch.offsets, seen), len(batch.offsets))
            if batch.targets is not None:
                rows = rows[[batch.targets[row] in (None, SINK) for row in rows.tolist()]]
            if len(rows):
                events.append(Events(batch, rows))
        return _Fresh(state, events, idle=all(len(batch.offsets) == 0 for batch in batches))

    def _make_values(self, events: Sequence[Sequence[Events]]) -> None:
        """What each event's JSON is made of, of each partition's first batch first: requests go out meanwhile.

        On this thread, which has parsed them: on another one, and another core, it takes up to three times as long."""
        for each in filter(None, chain.from_iterable(zip_longest(*events))):
            try:
                each.made.set_result(self._values(each.batch, each.rows))
            except Exception as failure:
                each.made.set_exception(failure)

    def _write(self, fresh: _Fresh) -> None:
        state, events = fresh.state, [*fresh.state.held, *fresh.events]
        if state.in_flight.to is not None and state.seen < state.in_flight.to:
            state.held = events
        else:
            self._send(state, events if state.in_flight.to is None else self._repeat(state, events))
            state.offset_next = state.seen
            state.held = []
        self._settle(state, fresh.idle)

    def _repeat(self, state: _Partition, events: Sequence[Events]) -> Sequence[Events]:
        """Send the predecessor's range in flight again, as it was; what is left of `events`.

        It must hold the events it held: another number of them would be other requests."""
        in_flight, now = state.in_flight, below(events, state.in_flight.to or 0)
        if now != sum(in_flight.sizes):
            raise FlowStopped(
                f"Offsets {state.offset_next} to {in_flight.to} of partition {state.id.partition} of {state.id.topic} "
                f"went to the partner with {sum(in_flight.sizes)} events and now hold {now}: the rules of this version "
                f"differ from those of the one that sent them. Run that version until it has settled, or ask the "
                f"partner and then run: python -m operations.provision --position {SINK}={in_flight.to}"
            )
        repeated, rest = cut(events, now)
        assert in_flight.to is not None
        self._deliver(state, planned(repeated, state.offset_next, in_flight.to, in_flight.sizes, in_flight.array))
        state.in_flight = Stored()
        return rest

    def _send(self, state: _Partition, events: Sequence[Events]) -> None:
        """Everything up to `seen`, in ranges of at most RANGE_REQUESTS_MAX requests."""
        sizes = sizes_of(count(events), self._batch_size)
        made = planned(events, state.offset_next, state.seen, sizes, array=self._batch_size > 1)
        for first in range(0, len(made), RANGE_REQUESTS_MAX):
            self._deliver(state, made[first : first + RANGE_REQUESTS_MAX])

    def _deliver(self, state: _Partition, requests: Sequence[Request]) -> None:
        """One range: its requests, one after another. A refused one goes out again in halves, in order, until the
        culprit stands alone."""
        state.pending = deque(requests)
        planned_anew = True
        try:
            while state.pending:
                old = time.monotonic() - state.stored_at >= FENCE_CHECK_S
                if planned_anew or old or self._stopping():
                    self._store_in_flight(state)
                planned_anew = self._send_first(state)
        except Leaving:
            self._store_in_flight(state)  # the next start sends nothing that was acknowledged
            raise

    def _send_first(self, state: _Partition) -> bool:
        """Send the first of the pending requests. Whether others are pending now than before it, and it."""
        request = state.pending[0]
        body = self._json(request)
        key = idempotency_key(state.id, request.offsets)
        answer = self._partner.deliver(body, key, self._holding(state, request), partial(self._store_in_flight, state))
        if answer.verdict is Verdict.ACCEPTED:
            self._accepted(state, request)
        elif len(request) > 1:
            log.info(
                "partner_request_split",
                partition=state.id.partition,
                offset=request.offsets[0],
                events=len(request),
                status=answer.status,
                idempotency_key=key,
            )
            state.pending.popleft()
            state.pending.extendleft(reversed(request.halves()))
            return True
        else:
            self._refused(state, request, answer, key)
        return False

    def _json(self, request: Request) -> bytes:
        """A JSON array, or the single object."""
        objects = b",".join(self._body(each.values) for each in request.events)
        return b"[" + objects + b"]" if request.array else objects

    def _store_in_flight(self, state: _Partition) -> None:
        """What is acknowledged and what goes out next, and the proof that the partition is ours; nothing where Kafka
        has the one and the other is fresh."""
        extra = stored_range(state.pending, self._refused_here(state))
        fresh = time.monotonic() - state.stored_at < FENCE_CHECK_S
        if (state.offset_next, extra) != state.stored or not fresh:
            self._commit(state, state.offset_next, extra)

    def _accepted(self, state: _Partition, request: Request) -> None:
        state.pending.popleft()
        state.offset_next = request.offset_next
        newest = request.events[-1]
        metrics.SINK_EVENTS.labels(SINK).inc(len(request))
        age_ms = self._now_ms() - int(newest.batch.timestamps_ms[newest.rows[-1]])
        metrics.LATENCY.labels(SINK).observe(max(age_ms, 0) / 1000)

    def _refused(self, state: _Partition, request: Request, answer: Answer, key: str) -> None:
        """The dead letter and the position behind it, in one transaction; all before it is acknowledged."""
        [event] = request.events
        batch, row, offset = event.batch, int(event.rows[0]), event.offsets[0]
        reason = answer.verdict.value
        letter = dead_letter(
            batch.keys[row],
            batch.values[row],
            reason=reason,
            detail=answer.detail,
            sink=SINK,
            topic=state.id.topic,
            partition=state.id.partition,
            offset=offset,
            rejected_at_ms=self._now_ms(),
            kafka_timestamp_ms=int(batch.timestamps_ms[row]),
            event_id=batch.event_ids[row],
        )
        behind = stored_range(list(state.pending)[1:], self._refused_here(state))
        self._commit(state, request.offset_next, behind, [letter])
        state.pending.popleft()
        state.offset_next = request.offset_next
        metrics.DEAD_LETTERS.labels(SINK, reason).inc()
        log.warning(
            "partner_refused",
            partition=state.id.partition,
            offset=offset,
            event_id=batch.event_ids[row],
            status=answer.status,
            reason=reason,
            detail=answer.words,
            idempotency_key=key,
        )

    def _holding(self, state: _Partition, request: Request) -> Callable[[Answer], str | None]:
        """Why a refusal must not stand: it is the twentieth in a row, and nobody has passed the event by hand."""

        def hold(answer: Answer) -> str | None:
            if len(request) > 1:
                return None
            [offset] = request.offsets
            if not self._partner.distrusted:
                self._partner.refused_in_a_row.append((state.id.partition, offset))
                return None
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
        """Store what was acknowledged or passed over, unless the next range is about to; renew an idle position."""
        if state.in_flight.to is None:
            settled = (state.offset_next, Stored(refused=self._refused_here(state)))
            due = idle or self._stopping() or time.monotonic() - state.stored_at >= SETTLE_S
            if due and settled != state.stored:
                self._commit(state, *settled)
        state.position.renew(self._now_ms() / 1000)

    def _commit(
        self, state: _Partition, offset_next: int, extra: Stored, letters: Sequence[DeadLetterRecord] = ()
    ) -> None:
        """One transaction."""
        text = msgspec.json.encode(extra).decode()
        state.position.commit(offset_next, text, letters, self._dead_letters if letters else None)
        state.stored, state.stored_at = (offset_next, extra), time.monotonic()
