"""The totals as a stateful Bytewax step, keyed by Kafka partition, and the Redis sink behind it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import bytewax.operators as op
from bytewax.dataflow import Stream, operator
from bytewax.operators import KeyedStream, StatefulBatchLogic

import metrics
from dataflows.lifecycle import ending
from engagement.enrich import EnrichedEvents
from engagement.totals import PartialTotals, partial_totals
from engagement.totals_step import TotalsStep
from engagement.totals_update import Stored, Update
from sources.positions import PositionGap, Span


class TotalsLogic(StatefulBatchLogic[PartialTotals, Update, bytes]):
    """One Kafka partition's totals; emitted on every batch, snapshots are encoded bytes, kept for ever."""

    def __init__(self, step: TotalsStep) -> None:
        self._step = step

    def on_batch(self, values: list[PartialTotals]) -> tuple[Iterable[Update], bool]:
        """Adds the batches up and emits the absolute totals of what they touched."""
        with ending("adding up totals"):
            updates = self._step.on_batch(values)
            for update in updates:
                where = update.span.partition
                metrics.LATE.labels(where.topic, where.partition).inc(update.late)
            return updates, StatefulBatchLogic.RETAIN
        raise AssertionError("unreachable")

    def snapshot(self) -> bytes:
        return self._step.snapshot()


@dataclass(frozen=True)
class RedisTotals:
    """How the totals are counted, and what Redis holds of them.

    load  a span's partition -> what Redis holds of it
    """

    load: Callable[[Span], Stored]
    window_minutes: int
    lateness_seconds: int

    def sum_up(self, batch: EnrichedEvents) -> PartialTotals:
        """One batch's sums, ready to cross workers."""
        return partial_totals(batch, window_minutes=self.window_minutes, lateness_seconds=self.lateness_seconds)

    def step(self, snapshot: bytes | None) -> TotalsStep:
        """The state of one Kafka partition."""
        return TotalsStep(
            snapshot,
            self.load,
            window_minutes=self.window_minutes,
            lateness_seconds=self.lateness_seconds,
            gap=PositionGap,
        )


@operator
def ten_minute_totals(step_id: str, up: Stream[EnrichedEvents], totals: RedisTotals) -> KeyedStream[Update]:
    """Minutes and windows per content, absolute, whenever a batch changes them; keyed by Kafka partition.

    What crosses workers of a cluster is the batch's sums by content id.
    """
    partials: KeyedStream[PartialTotals] = op.map("partials", up, lambda batch: _keyed(totals.sum_up(batch)))
    return op.stateful_batch("add_up", partials, lambda state: TotalsLogic(totals.step(state)))


def _keyed(partial: PartialTotals) -> tuple[str, PartialTotals]:
    return str(partial.span.partition.partition), partial
