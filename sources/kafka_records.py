"""What one poll of a Kafka partition returned, as columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
from confluent_kafka import Message

from sources.positions import Span

_SECOND = itemgetter(1)


@dataclass(slots=True)
class Records:
    """One micro-batch of one Kafka partition, in offset order.

    The span may cover more offsets than there are records: markers and gaps. All lists and arrays have length n.
    timestamps_ms are Kafka's, int64 milliseconds since 1970; headers as a whole are None where no record has one.
    """

    span: Span
    offsets: np.ndarray[Any, np.dtype[np.int64]]
    keys: list[bytes | None]
    values: list[bytes | None]
    timestamps_ms: np.ndarray[Any, np.dtype[np.int64]]
    headers: list[list[tuple[str, bytes | None]] | None] | None


def records_of(span: Span, messages: Sequence[Message]) -> Records:
    """The records of these messages, none of which is an error.

    Methods of the class, mapped: a call each, without a step of the interpreter. 0.17 us a record instead of 0.24.
    """
    headers = list(map(Message.headers, messages))
    return Records(
        span=span,
        offsets=_offsets(messages),
        keys=list(map(Message.key, messages)),
        values=list(map(Message.value, messages)),
        timestamps_ms=np.fromiter(map(_SECOND, map(Message.timestamp, messages)), np.int64, len(messages)),
        headers=headers if any(headers) else None,  # type: ignore[arg-type]
    )


def offset_of(message: Message) -> int:
    return message.offset()  # type: ignore[return-value]


def end_of(messages: Sequence[Message]) -> int:
    return offset_of(messages[-1]) + 1


def _offsets(messages: Sequence[Message]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """int64 [n]; where none is missing between first and last, only those two are asked."""
    if messages and end_of(messages) - offset_of(messages[0]) == len(messages):
        return np.arange(offset_of(messages[0]), end_of(messages), dtype=np.int64)
    return np.fromiter(map(offset_of, messages), np.int64, len(messages))
