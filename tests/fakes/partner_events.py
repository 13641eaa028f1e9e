"""Material for the partner's tests: batches as the flow makes them, the bodies of their events, an HTTP partner that is
a function, and a sink on top of all that."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import httpx
import numpy as np

from sinks.batches import Integers
from sinks.fenced_commit import Committed
from sinks.partner import PartnerSink
from sinks.partner_client import PartnerClient, Patience
from sources.positions import PartitionId, Span
from tests.fakes.positions import FakeBroker, FakeFencedCommit

IMPATIENT = Patience(wait_s=0.001, wait_s_max=0.005, jitter_s=0.001, failures_max=3)
NOW_MS = 1_800_000_000_000


def partition_id(number: int = 0, topic: str = "events", topic_id: str = "AAAAAAAAAAAAAAAAAAAAAQ") -> PartitionId:
    return PartitionId(topic, topic_id, number)


@dataclass
class EventBatch:
    """What the sink uses of an enriched batch."""

    span: Span
    offsets: Any
    keys: list[bytes | None]
    values: list[bytes]
    timestamps_ms: Any
    event_ids: list[str]
    targets: list[str | None] | None = None


def batch(
    offset_from: int,
    offset_next: int,
    offsets: Sequence[int] | None = None,
    *,
    partition: PartitionId | None = None,
    owner: str = "me",
    targets: dict[int, str] | None = None,
) -> EventBatch:
    """Events at `offsets` (default: at every offset) of [offset_from, offset_next). targets: offset -> sink."""
    partition = partition or partition_id()
    offsets = list(range(offset_from, offset_next)) if offsets is None else list(offsets)
    return EventBatch(
        Span(partition, owner, offset_from, offset_next),
        np.array(offsets, np.int64),
        [f"k{offset}".encode() for offset in offsets],
        [f"v{offset}".encode() for offset in offsets],
        np.full(len(offsets), NOW_MS, np.int64),
        [event_id(partition.partition, offset) for offset in offsets],
        [targets.get(offset) for offset in offsets] if targets else None,
    )


def event_id(partition: int, offset: int) -> str:
    return f"e{partition}-{offset}"


def values(events: EventBatch, rows: Integers) -> list[tuple[str, int]]:
    """Of each row its id and offset."""
    return [(events.event_ids[row], int(events.offsets[row])) for row in rows]


def body(events: Sequence[tuple[str, int]]) -> bytes:
    """JSON objects, each a function of its record alone."""
    return b",".join(b'{"event_id":"%s","n":%d}' % (each.encode(), offset) for each, offset in events)


@dataclass
class Sent:
    """One request as the partner saw it."""

    key: str
    ids: list[str]
    body: bytes
    headers: httpx.Headers
    status: int = 0


@dataclass
class FunctionPartner:
    """A partner in this process: `answer(ids, tries)` decides, 200 by default; `sent` has every request."""

    answer: Callable[[list[str], int], httpx.Response] = lambda ids, tries: httpx.Response(200)
    sent: list[Sent] = field(default_factory=list)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        decoded = json.loads(request.content)
        events = decoded if isinstance(decoded, list) else [decoded]
        ids = [event["event_id"] for event in events]
        sent = Sent(request.headers["idempotency-key"], ids, request.content, request.headers)
        self.sent.append(sent)
        response = self.answer(ids, len(self.sent))
        sent.status = response.status_code
        return response

    @property
    def accepted(self) -> list[str]:
        """Ids in the order of acceptance, repeated keys left out, as a partner that honours them would."""
        first = {sent.key: sent for sent in reversed(self.sent) if 200 <= sent.status < 300}
        order = sorted(first.values(), key=self.sent.index)
        return [each for sent in order for each in sent.ids]


class Abandoned(BaseException):
    """The test's stand-in for the end of the process."""


def abandon() -> NoReturn:
    raise Abandoned


def refusing(*wrong: str, status: int = 422) -> Callable[[list[str], int], httpx.Response]:
    """Answers `status` to every request with one of these ids."""
    return lambda ids, tries: httpx.Response(status if set(ids) & set(wrong) else 200, text="no")


def partner_sink(
    broker: FakeBroker,
    partner: Callable[[httpx.Request], httpx.Response],
    *,
    batch_size: int = 10,
    stopping: Callable[[], bool] = lambda: False,
    claim: Sequence[int] = (0,),
    **others: Any,
) -> PartnerSink:
    """A sink on fakes that has claimed `claim`; a partition nobody stored a position for begins at 0."""
    for number in claim:
        broker.positions.setdefault(number, Committed(0, "", broker.now))
    sink = PartnerSink(
        "http://partner.test/events",
        "secret",
        batch_size=batch_size,
        timeout_s=1,
        values=values,
        body=body,
        position=lambda partition: FakeFencedCommit(broker, partition),
        dead_letters="letters",
        stopping=stopping,
        abandon=abandon,
        patience=IMPATIENT,
        client=PartnerClient("http://partner.test/events", "secret", 1, transport=httpx.MockTransport(partner)),
        now_ms=lambda: NOW_MS + 1000,
        **others,
    )
    for number in claim:
        sink.claim(partition_id(number), "me")
    return sink
