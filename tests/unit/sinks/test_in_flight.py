"""A call under way: in order, beside the caller, its failure with its result."""

import threading

import pytest

from sinks.in_flight import Background


def test_calls_are_made_in_order_beside_the_caller() -> None:
    background, made, may_end = Background("test"), [], threading.Event()

    def call(number: int) -> None:
        assert may_end.wait(10)
        assert threading.current_thread().daemon
        made.append(number)

    under_way = [background.begin(lambda number=number: call(number)) for number in range(3)]
    assert not any(each.done() for each in under_way)
    may_end.set()
    assert [each.result(10) for each in under_way] == [None, None, None]
    assert made == [0, 1, 2]


def test_a_failure_comes_with_the_result_and_ends_nothing_else() -> None:
    background = Background("test")

    def fail() -> None:
        raise SystemExit("even this")

    failed, following = background.begin(fail), background.begin(lambda: None)
    with pytest.raises(SystemExit, match="even this"):
        failed.result(10)
    assert following.result(10) is None
