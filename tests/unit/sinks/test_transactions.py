"""What follows which failure of a transaction: on a producer that fails as told."""

import threading
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

import sinks.repetition
import sinks.transactions
from sinks.transactions import Record, Transactions
from sources.positions import Fenced, FlowStopped


class Producer:
    """Notes the calls; `failures` are raised by the calls named, one at a time."""

    def __init__(self, failures: dict[str, list[BaseException]]) -> None:
        self.calls: list[str] = []
        self._failures = failures
        self.reachable = False

    def list_topics(self, timeout: float) -> None:
        if not self.reachable:
            raise AWAY

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **named: Any) -> None:
            self.calls.append(name)
            if self._failures.get(name):
                raise self._failures[name].pop(0)

        return call


def failure(code: int, *, fatal: bool = False, retriable: bool = False, abort: bool = False) -> KafkaException:
    return KafkaException(KafkaError(code, "as told", fatal, retriable, abort))


AWAY = failure(KafkaError._TIMED_OUT, retriable=True)
ABORT = failure(KafkaError.INVALID_TXN_STATE, abort=True)
TRANSACTION = ["begin_transaction", "produce", "send_offsets_to_transaction", "commit_transaction"]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks.repetition, "WAIT_SECONDS_MAX", 0)


def transactions(failures: dict[str, list[BaseException]], **options: Any) -> tuple[Transactions, Producer]:
    made = Transactions({"bootstrap.servers": "nowhere"}, "group.sink", **options)
    producer = Producer(failures)
    made._producer = producer  # type: ignore[assignment]
    return made, producer


def run(made: Transactions) -> None:
    made.run([Record("letters", b"k", b"v")], [object()], "group")  # type: ignore[list-item]


def test_records_offsets_commit_in_this_order() -> None:
    made, producer = transactions({})
    run(made)
    assert producer.calls == TRANSACTION


@pytest.mark.parametrize("call", ["send_offsets_to_transaction", "commit_transaction"])
def test_a_call_that_may_be_repeated_is_repeated_alone(call: str) -> None:
    made, producer = transactions({call: [AWAY, AWAY]})
    run(made)
    at = TRANSACTION.index(call)
    assert producer.calls == [*TRANSACTION[:at], call, call, *TRANSACTION[at:]]


@pytest.mark.parametrize("call", ["send_offsets_to_transaction", "commit_transaction"])
def test_an_aborted_transaction_is_repeated_whole(call: str) -> None:
    made, producer = transactions({call: [ABORT], "abort_transaction": [AWAY]})
    run(made)
    at = TRANSACTION.index(call) + 1
    assert producer.calls == [*TRANSACTION[:at], "abort_transaction", "abort_transaction", *TRANSACTION]


@pytest.mark.parametrize("call", ["send_offsets_to_transaction", "commit_transaction"])
def test_a_fenced_producer_never_tries_again(call: str) -> None:
    made, producer = transactions({call: [failure(KafkaError._FENCED, fatal=True)]})
    with pytest.raises(Fenced, match=r"taken over group\.sink"):
        run(made)
    assert producer.calls[-1] == call


def test_what_waiting_cannot_cure_says_what_to_do() -> None:
    too_large = failure(KafkaError.MSG_SIZE_TOO_LARGE, abort=True)
    made, producer = transactions({"commit_transaction": [too_large]})
    with pytest.raises(FlowStopped, match=r"raise max\.message\.bytes"):
        run(made)
    assert producer.calls == [*TRANSACTION, "abort_transaction"]


def test_a_fatal_error_ends_the_flow() -> None:
    made, _ = transactions({"commit_transaction": [failure(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, fatal=True)]})
    with pytest.raises(FlowStopped, match="Kafka refused the transaction"):
        run(made)


def test_a_full_queue_is_waited_for() -> None:
    made, producer = transactions({"produce": [BufferError()]})
    run(made)
    assert producer.calls == ["begin_transaction", "produce", "flush", *TRANSACTION[1:]]


def test_a_request_to_stop_ends_the_waiting_and_nothing_is_committed() -> None:
    made, producer = transactions({"commit_transaction": [AWAY, AWAY]}, stopping=lambda: True)
    with pytest.raises(FlowStopped, match="what was not acknowledged is written after"):
        run(made)
    assert producer.calls == TRANSACTION


def test_a_call_that_never_returns_ends_the_process_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks.transactions, "HANG_SECONDS", 0.05)
    made, producer = transactions({})
    never = threading.Event()
    producer.send_offsets_to_transaction = lambda *arguments: never.wait(30)
    with pytest.raises(FlowStopped, match="start this process again"):
        run(made)
    never.set()
    assert "commit_transaction" not in producer.calls


def test_a_call_that_fails_for_ever_while_a_broker_answers_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash trial found a capture that waited for its abort until it was killed: Kafka had long been back."""
    monkeypatch.setattr(sinks.transactions, "HANG_SECONDS", 0.0)
    made, producer = transactions({"commit_transaction": [ABORT], "abort_transaction": [AWAY] * 1000})
    producer.reachable = True
    with pytest.raises(FlowStopped, match="start this process again"):
        run(made)
    assert producer.calls[-1] == "abort_transaction"


def test_while_no_broker_answers_it_is_waited_for_however_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks.transactions, "HANG_SECONDS", 0.0)
    made, producer = transactions({"commit_transaction": [AWAY] * 20})
    run(made)
    assert producer.calls.count("commit_transaction") == 21


def test_without_open_nothing_is_written() -> None:
    with pytest.raises(RuntimeError, match="open"):
        Transactions({}, "group.sink").run()
