"""What was rejected or refused in the last hour, by reason: read from the dead-letter topic as it comes. Reads only."""

import re
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
import structlog
from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition
from fastapi import APIRouter, Depends, HTTPException

from api.access import Access, Role, required
from api.stages import instant
from sources.position_records import position_consumer

KEPT_S = 3600.0
BUCKET_S = 60.0
REASONS_MAX = 100  # of all others only the number is told
LETTERS_AT_ONCE = 500
POLL_S = 1.0
ANSWER_S = 5.0
EXAMPLE_MAX = 200  # characters that are shown
PAYLOAD_MAX = 65_536  # bytes that are kept of one
PARSE = "parse"  # the `sink` of what was refused before it was an event
OTHERS = "other"
# An id of a user, wherever it stands in what is no JSON, and what anybody would read as one. No part may be long
# without end: a payload of one long word would take seconds.
_USER = re.compile(
    r"""("?\buser\w{0,20}"?\s{0,5}[:=]\s{0,5})("[^"]*"?|'[^']*'?|[^\s,;&}\]]+)"""
    r"""|\buser[_-][\w.@-]+|(?<![\w.+-])[\w.+-]{1,64}@[\w-]+\.\w[\w.]*"""
)
_PRIVATE = re.compile(r"user|mail|name|phone|address|^ip$|raw_payload", re.IGNORECASE)
_OURS = frozenset({"event_name"})

log = structlog.get_logger()


@dataclass
class _Reason:
    """counts: per minute, oldest first; the rest is of the newest letter."""

    counts: deque[tuple[float, int]] = field(default_factory=deque)
    sink: str = ""
    detail: str = ""
    last_at: float = 0.0
    letter: tuple[int, int] = (0, 0)
    origin: tuple[int, int] = (0, 0)
    payload: bytes = b""

    def add(self, at: float) -> None:
        minute = at // BUCKET_S * BUCKET_S
        if self.counts and self.counts[-1][0] >= minute:
            self.counts[-1] = self.counts[-1][0], self.counts[-1][1] + 1
        else:
            self.counts.append((minute, 1))

    def count(self, now: float) -> int:
        while self.counts and self.counts[0][0] < now - KEPT_S:
            self.counts.popleft()
        return sum(count for _, count in self.counts)


class RejectedLetters:
    """Of one dead-letter topic. `take` is called by one thread, `rejected` by any."""

    def __init__(self, kafka: Mapping[str, str], topic: str) -> None:
        self._kafka, self._topic = kafka, topic
        self._lock = threading.Lock()
        self._reasons: dict[str, _Reason] = {}

    def start(self, stop: threading.Event) -> None:
        """Read until `stop`, on a thread."""
        threading.Thread(target=self._run, args=(stop,), name="dead letters", daemon=True).start()

    def rejected(self, now: float, read: int | None) -> dict[str, Any]:
        """The event `rejected`. now: seconds since 1970; read: records of the same hour, those rejected included."""
        with self._lock:
            found = [(reason, of, count) for reason, of in self._reasons.items() if (count := of.count(now))]
            found.sort(key=lambda each: (-each[2], each[0]))
            reasons = [_reason_json(reason, of, count) for reason, of, count in found]
        total = sum(each["count"] for each in reasons)
        return {"since": instant(now - KEPT_S), "total": total, "read": read, "reasons": reasons}

    def take(self, letters: list[Message]) -> None:
        """Count what was read."""
        with self._lock:
            for letter in letters:
                self._take(letter)

    def _take(self, letter: Message) -> None:
        pairs: Any = letter.headers() or ()
        headers = {name: _text(value) for name, value in pairs}
        reason = headers.get("reason", OTHERS)
        if reason not in self._reasons and len(self._reasons) >= REASONS_MAX:
            reason = OTHERS
        of = self._reasons.setdefault(reason, _Reason())
        of.last_at = letter.timestamp()[1] / 1000
        of.add(of.last_at)
        of.sink, of.detail = headers.get("sink", ""), headers.get("detail", "")
        of.letter = letter.partition() or 0, letter.offset() or 0
        of.origin = _number(headers.get("partition")), _number(headers.get("offset"))
        of.payload = (letter.value() or b"")[:PAYLOAD_MAX]

    def _run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            consumer = position_consumer(self._kafka)
            try:
                consumer.assign(self._beginning(consumer))
                while not stop.is_set():
                    messages = consumer.consume(LETTERS_AT_ONCE, POLL_S)
                    self.take([message for message in messages if message.error() is None])
            except KafkaException as failure:
                log.warning("dead_letters_not_read", topic=self._topic, error=str(failure))
                with self._lock:
                    self._reasons.clear()  # they are read again
                stop.wait(ANSWER_S)
            finally:
                consumer.close()

    def _beginning(self, consumer: Any) -> list[TopicPartition]:
        """Where the last hour begins. Raises KafkaException."""
        found = consumer.list_topics(self._topic, timeout=ANSWER_S).topics[self._topic]
        if found.error is not None:
            raise KafkaException(found.error)
        if not found.partitions:
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
        since_ms = int((time.time() - KEPT_S) * 1000)
        asked = [TopicPartition(self._topic, partition, since_ms) for partition in found.partitions]
        return list(consumer.offsets_for_times(asked, timeout=ANSWER_S))


def without_examples(rejected: Mapping[str, Any]) -> dict[str, Any]:
    """What the role read is told: numbers and words, nobody's payload and no command."""
    return {**rejected, "reasons": [{**each, "example": None, "command": None} for each in rejected["reasons"]]}


def rejected_routes(letters: RejectedLetters | None, access: Access, told: Any) -> APIRouter:
    """told: () -> the event `rejected`."""
    router = APIRouter()

    @router.get("/rejected")
    async def rejected(role: Annotated[Role, Depends(required(access))]) -> dict[str, Any]:
        """What was rejected in the last hour, by reason; examples and commands for the role operate alone."""
        if letters is None:
            raise HTTPException(503, "this server reads no dead letters: set KAFKA_BOOTSTRAP_SERVERS")
        found: dict[str, Any] = told()
        return found if role == "operate" else without_examples(found)

    return router


def masked(payload: bytes) -> str:
    """A payload as people may see it: values that may name a user are …; at most EXAMPLE_MAX characters."""
    try:
        value = msgspec.json.decode(payload)
        text = msgspec.json.encode(_masked(value)).decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = _USER.sub(lambda found: f"{found[1] or ''}…", payload[: 20 * EXAMPLE_MAX].decode(errors="replace"))
        text = "".join(character if character.isprintable() else " " for character in text)
    return text if len(text) <= EXAMPLE_MAX else f"{text[: EXAMPLE_MAX - 1]}…"


def _masked(value: Any) -> Any:
    match value:
        case dict():
            return {key: "…" if _PRIVATE.search(key) and key not in _OURS else _masked(of) for key, of in value.items()}
        case list():
            return [_masked(each) for each in value]
        case str():
            return _USER.sub("…", value)
    return value


def _reason_json(reason: str, of: _Reason, count: int) -> dict[str, Any]:
    by_parse = of.sink == PARSE
    command = (
        f"python -m operations.dead_letters show {of.letter[0]} {of.letter[1]}"
        if by_parse
        else f"python -m operations.dead_letters replay --reason {reason}"
    )
    return {
        "reason": reason,
        "sink": of.sink,
        "count": count,
        "words": _USER.sub("…", of.detail),
        # What parse rejects it would reject again: that letter wants an edit.
        "replayable": not by_parse,
        "last_ts": instant(of.last_at),
        "example": {"partition": of.origin[0], "offset": of.origin[1], "text": masked(of.payload)},
        "command": command,
    }


def _text(value: str | bytes | None) -> str:
    return value if isinstance(value, str) else (value or b"").decode(errors="replace")


def _number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0
