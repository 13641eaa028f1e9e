"""The keyed step of the totals, without its engine: which state counts at a start, and which batches are counted."""

from collections.abc import Callable, Iterable
from typing import Any

from engagement.totals import PartialTotals
from engagement.totals_state import PartitionTotals
from engagement.totals_update import Stored, Update


class TotalsStep:
    """The logic of the keyed step: one Kafka partition's state, compared with its destination at the first batch.

    snapshot  bytes of an earlier `snapshot()`; None at the first start
    load      what the destination holds of a span's partition
    gap       the exception to raise, with a sentence, when batches are missing before the next one

    The snapshot is kept when it ends where the batches begin and the destination has come at least as far. Else the
    open buckets are loaded from the destination, and batches below its position are passed over.
    """

    def __init__(
        self,
        snapshot: bytes | None,
        load: Callable[[Any], Stored],
        *,
        window_minutes: int,
        lateness_seconds: int,
        gap: type[Exception],
    ) -> None:
        self._resume = snapshot
        self._load = load
        self._window_minutes = window_minutes
        self._lateness_seconds = lateness_seconds
        self._gap = gap
        self._state: PartitionTotals | None = None

    def on_batch(self, values: Iterable[PartialTotals]) -> list[Update]:
        """One Update for the batches not yet in the totals; of the others only the contents are passed on."""
        wanted: list[PartialTotals] = []
        passed: dict[str, bytes] = {}
        for partial in values:
            span = partial.span
            if self._state is None:
                self._state = self._start(span)
            expected = wanted[-1].span.offset_next if wanted else self._state.offset_next
            if span.offset_from >= expected:
                if span.offset_from > expected:
                    raise self._gap(self._sentence(span, expected, "the records between are missing"))
                wanted.append(partial)
            elif span.offset_next > expected:
                raise self._gap(self._sentence(span, expected, "the batch holds records that are counted already"))
            else:
                passed.update(partial.contents)
        if self._state is None or not (wanted or passed):
            return []
        update = self._state.add(wanted) if wanted else self._state.unchanged(span)
        update.contents = list((passed | dict(update.contents)).items())
        return [update]

    def snapshot(self) -> bytes:
        """The state as bytes."""
        if self._state is not None:
            return self._state.encode()
        return self._resume or b""

    def _start(self, span: Any) -> PartitionTotals:
        stored = self._load(span)
        options = {"window_minutes": self._window_minutes, "lateness_seconds": self._lateness_seconds}
        if self._resume and stored.offset_next is not None:
            kept = PartitionTotals.decode(self._resume, span.partition, **options)
            if kept is not None and span.offset_from == kept.offset_next <= stored.offset_next:
                return kept
        state = PartitionTotals(span.partition, span.offset_from, **options)
        state.load(stored)
        return state

    @staticmethod
    def _sentence(span: Any, expected: int, why: str) -> str:
        return (
            f"totals of {span.partition.topic} partition {span.partition.partition} need offset {expected} next, "
            f"and a batch covers {span.offset_from} to {span.offset_next}: {why}. "
            "Stop the flow, remove its recovery directory and start again: it goes on from what Redis holds."
        )
