"""One Kafka partition on its way to BigQuery: where it stands, its write stream, and what the table already holds."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import structlog

import metrics
from sinks.batches import Batch, Integers, is_needed
from sinks.bigquery_client import REFUSED_IN_A_ROW_MAX, SINK, Away, BigQueryPatience
from sinks.bigquery_ledger import Ledger
from sinks.bigquery_rows import REQUEST_BYTES_MAX, Rows, ToArrow, frozen, rows_of, schema_bytes
from sinks.bigquery_stream import Append, AppendStream, Refusal
from sinks.fenced_commit import DeadLetterRecord, Position, dead_letter
from sinks.masking import without_values
from sources.positions import FlowStopped, PartitionId

log = structlog.get_logger()

COMMIT_SECONDS = 2.0  # a position moves on at least this often
REST_SECONDS = 86_400.0  # BigQuery forgets a stream after three idle days: after one a new one is claimed
# What a table partitioned by day can hold, counted from today: 10 years back, 1 year ahead. Both a little less.
DAYS_BACK_MAX, DAYS_AHEAD_MAX = 3650, 364


class Stored(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is stored beside the position: the last landed row (offset, event day since 1970), whose absence tells that
    the table was restored from a backup or emptied; and how many rows were refused since the last accepted one."""

    row: int | None = None
    day: int = 0
    refused: int = 0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all partitions of the sink share. clock: seconds since 1970; passed: (partition, offset) -> an operator
    lets this row go to the dead letters although the breaker is open."""

    transport: Any
    ledger: Ledger
    patience: BigQueryPatience
    rows: ToArrow
    day_of: Callable[[Any], Integers]
    dead_letters: str
    clock: Callable[[], float]
    passed: Callable[[PartitionId, int], bool]
    claim: Callable[[Sequence[PartitionId]], dict[PartitionId, str]]
    ack_seconds: float


@dataclass(frozen=True, slots=True)
class Run:
    """Rows that go out together, or (refusal given) one row that goes to the dead letters.

    refusal  (reason, detail); distrusted: BigQuery said so, not this process, so many in a row open the breaker"""

    rows: Rows
    refusal: tuple[str, str] | None = None
    distrusted: bool = False


class PartitionWriter:
    """The only writer of one Kafka partition, from claim to close. One thread.

    `begin` and `send` put rows on the wire, `settle` returns when each is acknowledged or a dead letter; between
    them nothing waits, so that several partitions are under way at once.
    """

    def __init__(self, around: Surroundings, partition: PartitionId, owner: str, position: Position) -> None:
        self.partition, self.owner, self.position = partition, owner, position
        self._around = around
        committed = position.open()
        self.offset_next = committed.offset_next
        self._stored = self._decoded(committed.metadata)
        self._committed, self._committed_at = committed.offset_next, around.clock()
        self.stream: AppendStream | None = None
        self.stream_name: str | None = None
        self._seen = -1  # the table holds all rows up to here, as far as it was asked
        self._asking = True  # the next row may have landed before this process started
        self._check_named = self._stored.row is not None
        patience = around.patience
        patience.refused_in_a_row = max(patience.refused_in_a_row, self._stored.refused)
        self._runs: deque[Run] = deque()
        self._out: list[Append] = []
        self._used_at = around.clock()

    def begin(self, batches: Sequence[Batch]) -> None:
        """Take batches in offset order; what lies below the position is passed over. Raises PositionGap, Fenced."""
        fresh, end = [], self.offset_next
        for batch in batches:
            if is_needed(batch.span, SINK, self.owner, end):
                fresh.append(batch)
                end = batch.span.offset_next
        rows = rows_of(fresh, self._around.day_of, SINK, self.offset_next)
        self._runs = deque(self._without_impossible(rows))
        self.offset_next = end

    def needs_stream(self) -> bool:
        """Rows wait and there is no stream, or it has rested so long that BigQuery may have forgotten it."""
        if self.stream_name is not None and self._around.clock() - self._used_at > REST_SECONDS:
            self.rest()
        return self.stream_name is None and any(run.refusal is None for run in self._runs)

    def opened(self, stream: str) -> None:
        """A claimed stream, all others finalised: what the table holds from here on is a question again."""
        self.rest()
        self.stream_name = stream
        self._asking, self._used_at = True, self._around.clock()

    def rest(self) -> None:
        """Let go of the stream; the next row claims a new one."""
        if self.stream is not None:
            self.stream.close()
        self.stream = self.stream_name = None

    def send(self) -> None:
        """Drop the rows that landed before, then put the first rows on the wire."""
        if self._asking and any(run.refusal is None for run in self._runs):
            self._ask()
        if self._runs and self._runs[0].refusal is None:
            self._send_first()

    def settle(self) -> None:
        """Return when every row is acknowledged by BigQuery or, refused, in the dead letters."""
        while self._runs:
            run = self._runs[0]
            if run.refusal is not None:
                self._refuse()
                continue
            if not self._out:
                self._send_first()
                continue  # an impossible row may have been found
            assert self.stream is not None
            refusal = self._around.patience.call(f"append rows of {self._name}", self.stream.settle)
            if refusal is None:
                self._landed(run.rows)
                self._runs.popleft()
                self._out = []
            else:
                self._split(refusal)

    def settle_position(self, idle: bool) -> None:
        """Store the position when it is due; it may lag, for a start asks the table what landed behind it."""
        now = self._around.clock()
        due = idle or self._around.patience.stopping() or now - self._committed_at >= COMMIT_SECONDS
        if self.offset_next > self._committed and due:
            self._commit(self.offset_next)
        else:
            self.position.renew(now)

    def prove(self) -> None:
        """Store the position again: raises Fenced where another process has taken the partition over."""
        self.position.commit(self._committed, self._encoded())
        self._committed_at = self._around.clock()

    @property
    def proven_at(self) -> float:
        return self._committed_at

    @property
    def _name(self) -> str:
        return f"partition {self.partition.partition} of {self.partition.topic}"

    def _without_impossible(self, rows: Rows) -> list[Run]:
        """Rows of days that the table's partitioning cannot hold become refusals, in their place."""
        today = int(self._around.clock() // 86_400)
        impossible = (rows.days < today - DAYS_BACK_MAX) | (rows.days > today + DAYS_AHEAD_MAX)
        reason = ("day_out_of_range", "Its day is over ten years ago or over a year ahead: BigQuery cannot hold it.")
        return _parted(rows, {int(row): reason for row in np.flatnonzero(impossible)}, distrusted=False)

    def _ask(self) -> None:
        """Ask the table what landed before this process owned the stream; drop that.

        Landings are prefixes, so the largest offset among the event days of a batch tells for all of it. Once a row is
        absent, all behind it are, and nothing is asked any more."""
        rows = [run.rows for run in self._runs if run.refusal is None]
        batches = rows[0].batches
        for number in range(len(batches)):
            offsets = np.concatenate([each.offsets[each.which == number] for each in rows])
            days = np.concatenate([each.days[each.which == number] for each in rows])
            if not self._asking or not (offsets > self._seen).any():
                continue
            self._ask_about(int(offsets[0]), np.unique(days).tolist())
            self._asking = not bool((offsets > self._seen).any())
        kept = [(run, run.rows.offsets > self._seen) for run in self._runs]
        self._runs = deque(Run(run.rows[mask], run.refusal, run.distrusted) for run, mask in kept if mask.any())

    def _ask_about(self, offset_from: int, days: list[int]) -> None:
        named = self._stored.row if self._check_named else None
        if named is not None:
            offset_from, days = min(offset_from, named), [*days, self._stored.day]
        landed = self._around.patience.call(
            f"ask which rows of {self._name} have landed",
            self._around.ledger.landed,
            self.partition,
            offset_from,
            days,
            named,
        )
        if named is not None and not landed.named_found:
            raise FlowStopped(
                f"The row of offset {named} of {self._name}, which BigQuery had acknowledged, is not in the table: it "
                "was restored from a backup, emptied, or the row was deleted (blank personal columns instead). Compare "
                f"(docs/runbook.md), then set the position with: python -m operations.provision --position "
                f"{SINK}=earliest|end|OFFSET."
            )
        self._check_named = False
        if landed.newest is not None and landed.newest > self._seen:
            self._seen = landed.newest
        log.info("bigquery_landed", partition=self.partition.partition, offset_from=offset_from, newest=landed.newest)

    def _send_first(self) -> None:
        """Freeze the first run and queue it. Rows are given new offsets in the stream, so no request of a lost
        connection may still be under way: it could land at one of them."""
        if self.stream is not None and not self.stream.clean:
            self._reopen()
            if not self._runs or self._runs[0].refusal is not None:
                return
        run = self._runs[0]
        around = self._around
        made = frozen(run.rows, around.rows, int(around.clock() * 1e6))
        if any(len(body) > REQUEST_BYTES_MAX for _, body in made):
            self._refuse_too_large(run, made)
            return
        if self.stream is None:
            assert self.stream_name is not None
            self.stream = AppendStream(
                around.transport,
                self.stream_name,
                schema_bytes(run.rows, around.rows),
                stopping=around.patience.stopping,
                ack_seconds=around.ack_seconds,
            )
        self._out, at = [], self.stream.end
        for rows, body in made:
            self._out.append(Append(at, len(rows), body, rows))
            at += len(rows)
        self._used_at = around.clock()
        self.stream.send(self._out)

    def _reopen(self) -> None:
        """A new stream, and the table asked again: what of the old one landed is then certain."""
        self.prove()
        log.warning("bigquery_reopened", partition=self.partition.partition, stream=self.stream_name)
        self.opened(self._around.claim([self.partition])[self.partition])
        self._ask()

    def _landed(self, rows: Rows) -> None:
        self._stored = Stored(int(rows.offsets[-1]), int(rows.days[-1]))
        patience = self._around.patience
        patience.refused_in_a_row = 0
        batch, index = rows.at(len(rows) - 1)
        metrics.SINK_EVENTS.labels(SINK).inc(len(rows))
        metrics.LATENCY.labels(SINK).observe(max(self._around.clock() - int(batch.timestamps_ms[index]) / 1000, 0))

    def _split(self, refusal: Refusal) -> None:
        """Part the first run: what landed, what is refused, what follows. A refusal without rows is halved."""
        run = self._runs.popleft()
        refused: Rows = refusal.append.tag
        self._out = []
        landed = run.rows[run.rows.offsets < refused.offsets[0]]
        behind = run.rows[run.rows.offsets > refused.offsets[-1]]
        if len(landed):
            self._landed(landed)
        if refusal.rows or len(refused) == 1:
            named = refusal.rows or {0: refusal.text}
            reasons = {row: ("row_refused", _detail(text)) for row, text in named.items() if row < len(refused)}
            parts = _parted(refused, reasons, distrusted=True)
        else:
            middle = len(refused) // 2
            parts = [Run(refused[:middle]), Run(refused[middle:])]
        if len(behind):
            parts.append(Run(behind))
        self._runs.extendleft(reversed(parts))

    def _refuse_too_large(self, run: Run, made: Sequence[tuple[Rows, bytes]]) -> None:
        reason = ("row_too_large", f"The row is larger than {REQUEST_BYTES_MAX} bytes: shorten its longest field.")
        too_large = {int(rows.offsets[0]) for rows, body in made if len(body) > REQUEST_BYTES_MAX}
        where = {row: reason for row, offset in enumerate(run.rows.offsets.tolist()) if offset in too_large}
        self._runs.popleft()
        self._runs.extendleft(reversed(_parted(run.rows, where, distrusted=False)))

    def _refuse(self) -> None:
        """Dead letters and the position behind them in one transaction: all before is acknowledged, nothing behind is
        sent. The twentieth in a row that BigQuery refuses opens the breaker instead and waits."""
        patience = self._around.patience
        taken: list[Run] = []
        while self._runs and self._runs[0].refusal is not None:
            run = self._runs[0]
            if run.distrusted and patience.refused_in_a_row + 1 >= REFUSED_IN_A_ROW_MAX:
                break
            patience.refused_in_a_row += run.distrusted
            taken.append(self._runs.popleft())
        if taken:
            self._letters(taken)
        else:
            self._hold(self._runs.popleft())

    def _letters(self, runs: Sequence[Run]) -> None:
        letters = []
        for run in runs:
            batch, index = run.rows.at(0)
            reason, detail = run.refusal or ("", "")
            letters.append(
                dead_letter(
                    batch.keys[index],
                    batch.values[index],
                    reason=reason,
                    detail=detail,
                    sink=SINK,
                    topic=self.partition.topic,
                    partition=self.partition.partition,
                    offset=int(run.rows.offsets[0]),
                    rejected_at_ms=int(self._around.clock() * 1000),
                    kafka_timestamp_ms=int(batch.timestamps_ms[index]),
                    event_id=batch.event_ids[index],
                )
            )
            metrics.DEAD_LETTERS.labels(SINK, reason).inc()
            log.warning(
                "bigquery_refused",
                partition=self.partition.partition,
                offset=int(run.rows.offsets[0]),
                event_id=batch.event_ids[index],
                reason=reason,
                detail=without_values(detail, batch.values[index]),
            )
        self._commit(int(runs[-1].rows.offsets[0]) + 1, letters)

    def _hold(self, run: Run) -> None:
        """The breaker is open: the same row is tried until BigQuery takes it, or an operator passes it."""
        patience, offset = self._around.patience, int(run.rows.offsets[0])
        batch, index = run.rows.at(0)
        said = without_values(run.refusal[1] if run.refusal else "", batch.values[index])
        behind, self._runs = self._runs, deque()
        why = (
            f"it refused {REFUSED_IN_A_ROW_MAX} rows in a row: {self._name} waits at offset {offset} until BigQuery "
            f"takes it, or it is passed with: python -m operations.dead_letters pass {SINK} {self.partition.partition} "
            f"{offset}. Those before it are dead letters and can be replayed. {said}"
        )
        patience.distrust(why)

        def again() -> bool:
            """True: the row is in the table. False: an operator passed it."""
            if not self._out:
                if self._around.passed(self.partition, offset):
                    return False
                self._runs = deque([Run(run.rows)])
                self._send_first()
            if not self._runs or self.stream is None:
                return True  # a lost request of it had landed
            refusal = self.stream.settle()
            self._out = []
            self._runs.clear()
            if refusal is None:
                self._landed(run.rows)
                return True
            raise Away(why)

        if not patience.call("write a row that it refuses", again):
            self._letters([run])
        # What else it refused meanwhile is not believed either: it is asked again.
        self._runs = deque(Run(each.rows) if each.distrusted else each for each in behind)

    def _commit(self, offset_next: int, letters: Sequence[DeadLetterRecord] = ()) -> None:
        topic = self._around.dead_letters if letters else None
        self.position.commit(offset_next, self._encoded(), letters, topic)
        self._committed, self._committed_at = offset_next, self._around.clock()

    def _encoded(self) -> str:
        refused = self._around.patience.refused_in_a_row
        return msgspec.json.encode(msgspec.structs.replace(self._stored, refused=refused)).decode()

    def _decoded(self, metadata: str) -> Stored:
        try:
            return msgspec.json.decode(metadata or "{}", type=Stored)
        except msgspec.DecodeError as error:
            raise FlowStopped(
                f"The position of sink {SINK} in {self._name} holds {metadata!r}, which this version does not "
                f"understand ({error}): run the version that wrote it, or set it with: python -m operations.provision "
                f"--position {SINK}=OFFSET"
            ) from None


def _parted(rows: Rows, reasons: dict[int, tuple[str, str]], *, distrusted: bool) -> list[Run]:
    """Rows as runs: each refused row alone, with its (reason, detail), the others together between them."""
    runs, start = [], 0
    for row in sorted(reasons):
        if row > start:
            runs.append(Run(rows[start:row]))
        runs.append(Run(rows[row : row + 1], reasons[row], distrusted))
        start = row + 1
    if start < len(rows):
        runs.append(Run(rows[start:]))
    return runs


def _detail(text: str) -> str:
    return f"BigQuery refused the row: {text[:500]}. Correct the event, then replay it."
