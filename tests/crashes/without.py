"""The pipeline without one of its protections: switched off in the process of a control run, from outside.

No setting of the pipeline does this. Each raises where it no longer finds what it switches off.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from secrets import token_hex
from typing import Any

BETWEEN_S = 0.3  # between two writes that were one: so long a kill may come between them


@dataclass(frozen=True)
class Protection:
    """is_off: what then happens instead, for the list of control runs."""

    switch_off: Callable[[], None]
    is_off: str


def _replaced(owner: Any, name: str, made: Callable[[Any], Any]) -> None:
    setattr(owner, name, made(getattr(owner, name)))


def _redis_guard() -> None:
    from sinks.redis import RedisSink

    _replaced(RedisSink, "_outcome", lambda _: lambda self, span, owner, stored: "next")


def _bigquery_fence() -> None:
    from sinks.bigquery_registry import StreamRegistry

    _replaced(StreamRegistry, "finalise", lambda _: lambda self, stream, timeout=0.0: None)


def _bigquery_question() -> None:
    from sinks.bigquery_writer import PartitionWriter

    def nothing(self: Any) -> None:
        self._asking = False

    _replaced(PartitionWriter, "_ask", lambda _: nothing)


def _partner_range() -> None:
    from sinks.partner import PartnerSink

    _replaced(PartnerSink, "_store_in_flight", lambda _: lambda self, state: None)


def _partner_key() -> None:
    from sinks import partner

    _replaced(partner, "idempotency_key", lambda _: lambda partition, offsets: token_hex(32))


def _acknowledgement() -> None:
    from sinks.partner import PartnerSink
    from sinks.partner_requests import Stored

    def first_settled(self: Any, state: Any) -> None:
        self._commit(state, state.pending[-1].offset_next, Stored())

    _replaced(PartnerSink, "_store_in_flight", lambda _: first_settled)


def _capture_transaction() -> None:
    from sinks import capture_topic

    def apart(run: Any) -> Any:
        def run_apart(self: Any, records: Any = (), *rest: Any) -> None:
            *rows, position = records
            if rows:
                run(self, rows, *rest)
                time.sleep(BETWEEN_S)
            run(self, [position], *rest)

        return run_apart

    _replaced(capture_topic.Transactions, "run", apart)


def _letters_transaction() -> None:
    from sinks.fenced_commit import FencedCommit

    def apart(commit: Any) -> Any:
        def commit_apart(self: Any, offset_next: int, extra: str = "", letters: Any = (), topic: Any = None) -> None:
            if letters:
                commit(self, self._last.offset_next, self._last.metadata, letters, topic)
                time.sleep(BETWEEN_S)
            commit(self, offset_next, extra)

        return commit_apart

    _replaced(FencedCommit, "commit", apart)


def _fence() -> None:
    from sinks.transactions import Transactions

    def unfenced(make: Any) -> Any:
        def make_unfenced(self: Any, kafka: Any, transactional_id: str, **rest: Any) -> None:
            make(self, kafka, f"{transactional_id}.{token_hex(8)}", **rest)

        return make_unfenced

    _replaced(Transactions, "__init__", unfenced)


def _start_rule() -> None:
    from sinks import bigquery_writer, dead_letters, partner
    from sources.kafka import METADATA_TIMEOUT_S, KafkaSource
    from sources.kafka import TopicPartition as Place

    def at_the_end(self: Any, consumer: Any, partition: Any, claims: Any, snapshot: Any) -> int:
        place = Place(partition.topic, partition.partition)
        return int(consumer.get_watermark_offsets(place, timeout=METADATA_TIMEOUT_S, cached=False)[1])

    def gaps_are_fine(span: Any, sink: str, owner: str, offset_next: int) -> bool:
        return bool(span.offset_next > offset_next)

    _replaced(KafkaSource, "_start", lambda _: at_the_end)
    for module in (bigquery_writer, dead_letters, partner):
        _replaced(module, "is_needed", lambda _: gaps_are_fine)


PROTECTIONS = {
    "redis_guard": Protection(_redis_guard, "a write asks neither for the owner's token nor for the position"),
    "bigquery_fence": Protection(_bigquery_fence, "a start does not finalise the streams of its predecessors"),
    "bigquery_question": Protection(_bigquery_question, "a start does not ask the table what has landed"),
    "partner_range": Protection(_partner_range, "the range in flight is not stored before the request"),
    "partner_key": Protection(_partner_key, "each request has an idempotency key of its own"),
    "acknowledgement": Protection(_acknowledgement, "the partner's position moves before its answer"),
    "capture_transaction": Protection(_capture_transaction, "rows and capture position are two transactions"),
    "letters_transaction": Protection(_letters_transaction, "dead letters and their position are two transactions"),
    "fence": Protection(_fence, "each process has a transactional.id of its own"),
    "start_rule": Protection(_start_rule, "a start reads from the end of the topic, and gaps are passed over"),
}
