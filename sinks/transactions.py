"""Kafka transactions under one transactional.id: the fence that keeps a second writer of the same position out.

`open` fences the predecessor and aborts what it left open; `run` writes records and offsets in one transaction, or
nothing. Kafka away is waited for without end, in words; what no waiting can cure is one sentence for the operator.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from sinks.repetition import give_up, never, repeated
from sources.positions import Fenced, FlowStopped

log = structlog.get_logger()

TRY_SECONDS = 5.0  # one try of a blocking call: how long a stop request may go unseen
HANG_SECONDS = 30.0  # a call that was to return after TRY_SECONDS never will
REACH_SECONDS = 1.0

PROVISION = "create the topics with: python -m operations.provision"
# Repeating would fail in the same way: what must be changed instead.
REMEDIES = {
    KafkaError.MSG_SIZE_TOO_LARGE: "raise max.message.bytes of the topic",
    KafkaError.RECORD_LIST_TOO_LARGE: "raise max.message.bytes of the topic",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "allow this user WRITE on the topic",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "allow this user READ on the consumer group",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "allow this user WRITE and DESCRIBE on the transactional id",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "allow this user IDEMPOTENT_WRITE on the cluster",
    KafkaError.INVALID_TRANSACTION_TIMEOUT: "lower KAFKA_CONFIG_TRANSACTION_TIMEOUT_MS",
    KafkaError.UNKNOWN_TOPIC_OR_PART: PROVISION,
    KafkaError._UNKNOWN_TOPIC: PROVISION,
    KafkaError._UNKNOWN_PARTITION: PROVISION,
}
FENCED = (KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED)


@dataclass(frozen=True, slots=True)
class Record:
    """One record to be written; `key` chooses the partition (murmur2, as Java's clients do), None: any."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] = ()


class Transactions:
    """All or nothing, and only while no other process has opened the same transactional.id.

    stopping, abandon  asked before each repetition: after SIGTERM `abandon()` ends the process, nothing committed
    Methods raise Fenced where another process took over, FlowStopped where waiting cannot help.
    """

    def __init__(
        self,
        kafka: Mapping[str, str],
        transactional_id: str,
        *,
        stopping: Callable[[], bool] = never,
        abandon: Callable[[], object] = give_up,
    ) -> None:
        # The broker answers CONCURRENT_TRANSACTIONS while it still writes the markers of the last transaction, and
        # librdkafka would sleep 100 ms before it asks again. No Python callback is set: flush() of a fenced producer
        # would hide the KafkaException behind a SystemError.
        self._properties: dict[str, Any] = {
            "retry.backoff.ms": 10,
            "retry.backoff.max.ms": 20,
            "linger.ms": 0,
            "partitioner": "murmur2_random",
            "message.max.bytes": 64 * 1024 * 1024,  # the topic's own limit decides
            # After the broker was away, "rebootstrap" (the default) forgets the group's coordinator for good, and
            # send_offsets_to_transaction never returns: github.com/confluentinc/librdkafka/issues/5511.
            "metadata.recovery.strategy": "none",
            "reconnect.backoff.max.ms": 1000,
            "socket.timeout.ms": 10_000,  # also bounds what TRY_SECONDS does not: storing offsets without a broker
            **kafka,
            "transactional.id": transactional_id,
        }
        self._id = transactional_id
        self._stopping, self._abandon = stopping, abandon
        self._producer: Producer | None = None

    def open(self) -> None:
        """Take over: the predecessor is fenced and its open transaction aborted. Blocks while Kafka is away."""
        self._producer = Producer(self._properties)
        # Asked before a connection is up, librdkafka looks for the coordinator only half a second later: a claim takes
        # 65 ms then, without this 280 on average.
        self._answers()
        self._blocking("take over", self._producer.init_transactions)

    def run(self, records: Sequence[Record] = (), offsets: Sequence[TopicPartition] = (), group: Any = None) -> None:
        """Write `records` and commit `offsets` for the consumer group whose metadata is `group`, in one transaction.

        When it returns, all of it is committed. Anything raised: nothing is, or (Kafka away) nobody knows yet, and
        the successor's `open` settles it before it reads positions."""
        for attempt in repeated(aborted, self._stopping, self._abandon):
            with attempt:
                self._say_waiting("write", attempt.num)
                try:
                    self._once(records, offsets, group)
                except KafkaException as failure:
                    self._settle(failure)
                    raise

    def close(self) -> None:
        """Forget the producer; an open transaction is left to the successor's `open`, or to its timeout."""
        self._producer = None

    def _once(self, records: Sequence[Record], offsets: Sequence[TopicPartition], group: Any) -> None:
        producer = self._opened()
        producer.begin_transaction()
        for record in records:
            self._produce(producer, record)
        if offsets:
            store = _returning(producer.send_offsets_to_transaction)
            self._blocking("store the position", store, list(offsets), group)
        self._blocking("commit", producer.commit_transaction)

    def _produce(self, producer: Producer, record: Record) -> None:
        headers: list[tuple[str, str | bytes | None]] = list(record.headers)
        while True:
            try:
                producer.produce(record.topic, value=record.value, key=record.key, headers=headers)
                return
            except BufferError:  # librdkafka's queue is full: wait for acknowledgements
                producer.flush(TRY_SECONDS)
                self._say_waiting("write", 2)
                if self._stopping():
                    self._abandon()

    def _settle(self, failure: KafkaException) -> None:
        """Leave no transaction open behind a failure: abort it, or say why the flow must end."""
        error = failure.args[0]
        if aborted(failure):
            self._blocking("abort", self._opened().abort_transaction)
        if error.code() in REMEDIES:
            raise self._stopped(error) from failure

    def _blocking(self, what: str, call: Callable[..., Any], *arguments: Any) -> None:
        """Call, and call again while Kafka is away: librdkafka goes on with the same operation.

        Not for ever while a broker answers: its connection to the coordinator may be stuck after an outage (2.16: one
        request in its queue, none in flight), and only a new process gets on."""
        answered_at: float | None = None
        for attempt in repeated(repeatable, self._stopping, self._abandon):
            with attempt:
                self._say_waiting(what, attempt.num)
                try:
                    call(*arguments, TRY_SECONDS)
                except KafkaException as failure:
                    error = failure.args[0]
                    if error.code() in FENCED:
                        raise Fenced(
                            f"Another process has taken over {self._id} (or this one stood still longer than "
                            f"transaction.timeout.ms, and Kafka gave it up): this process ends. Run one per partition."
                        ) from failure
                    if error.fatal() or (error.code() in REMEDIES and not aborted(failure)):
                        raise self._stopped(error) from failure
                    log.warning("kafka_failed", to=what, transactional_id=self._id, error=error.str())
                    stuck = repeatable(failure) and self._answers()
                    answered_at = (answered_at or time.monotonic()) if stuck else None
                    if answered_at is not None and time.monotonic() - answered_at > HANG_SECONDS:
                        raise _hung() from failure
                    raise

    def _answers(self) -> bool:
        """Whether a broker is there, by another request of the same client."""
        try:
            self._opened().list_topics(timeout=REACH_SECONDS)
        except KafkaException:
            return False
        return True

    def _say_waiting(self, what: str, tries: int) -> None:
        if tries > 1:
            log.warning("waiting_for_kafka", to=what, transactional_id=self._id, tries=tries)

    def _stopped(self, error: KafkaError) -> FlowStopped:
        remedy = REMEDIES.get(error.code(), "see the broker's log, then start again")
        return FlowStopped(f"Kafka refused the transaction of {self._id}: {error.str()}. To go on, {remedy}.")

    def _opened(self) -> Producer:
        if self._producer is None:
            raise RuntimeError(f"{self._id}: open() comes first")
        return self._producer


def _returning(call: Callable[..., Any]) -> Callable[..., Any]:
    """`call`, for which nobody waits for ever: where librdkafka forgot the coordinator (see above; a broker that leaves
    the cluster does it too) it hangs, and only a new process gets on. Raises FlowStopped then."""

    def bounded(*arguments: Any) -> None:
        failures: list[BaseException] = []

        def run() -> None:
            try:
                call(*arguments)
            except BaseException as failure:
                failures.append(failure)

        thread = threading.Thread(target=run, name="kafka-transaction", daemon=True)
        thread.start()
        thread.join(HANG_SECONDS)
        if thread.is_alive():
            raise _hung()
        if failures:
            raise failures[0]

    return bounded


def _hung() -> FlowStopped:
    return FlowStopped(
        f"The Kafka client has not answered for {HANG_SECONDS:.0f} s, a broker has left: start this process again, it "
        "goes on from its stored position."
    )


def aborted(failure: BaseException) -> bool:
    """The transaction has failed as a whole and may be tried again from its beginning."""
    return isinstance(failure, KafkaException) and bool(failure.args[0].txn_requires_abort())


def repeatable(failure: BaseException) -> bool:
    """The same call may be made again, and goes on where it was."""
    return isinstance(failure, KafkaException) and bool(failure.args[0].retriable()) and not aborted(failure)
