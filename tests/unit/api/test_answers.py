"""Reads that are made together: what comes while one is under way goes into the next, and each asker gets his own."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from api.answers import TOGETHER_MAX, Together


class Read:
    """Upper case of what is asked for, once it may go on; the batches it was asked for."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.may_go_on = asyncio.Event()

    async def __call__(self, keys: list[str]) -> Sequence[str]:
        self.batches.append(keys)
        await asyncio.wait_for(self.may_go_on.wait(), 10)
        if "bad" in keys:
            raise ValueError("bad")
        return [key.upper() for key in keys]


async def under_way(read: Read) -> None:
    while not read.batches:
        await asyncio.sleep(0.001)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 20))


def test_what_comes_while_one_is_under_way_goes_into_the_next() -> None:
    async def asked() -> None:
        read = Read()
        together = Together(read)
        first = asyncio.create_task(together.get("a"))
        await under_way(read)
        others = [asyncio.create_task(together.get(key)) for key in ("b", "c", "b", "a")]
        await asyncio.sleep(0.01)
        read.may_go_on.set()
        assert [await each for each in (first, *others)] == ["A", "B", "C", "B", "A"]
        # "a" is read again: whoever asks sees what was there when he asked.
        assert read.batches == [["a"], ["b", "c", "a"]]
        assert await together.get("d") == "D"

    run(asked())


def test_a_crowd_is_read_in_parts() -> None:
    async def asked() -> None:
        read = Read()
        read.may_go_on.set()
        together = Together(read)
        keys = [str(number) for number in range(2 * TOGETHER_MAX + 1)]
        assert await asyncio.gather(*map(together.get, keys)) == keys
        assert [len(batch) for batch in read.batches] == [TOGETHER_MAX, TOGETHER_MAX, 1]

    run(asked())


def test_a_failure_reaches_all_who_were_in_it_and_nobody_else() -> None:
    async def asked() -> None:
        read = Read()
        together = Together(read)
        first = asyncio.create_task(together.get("a"))
        await under_way(read)
        failing = [asyncio.create_task(together.get(key)) for key in ("b", "bad")]
        await asyncio.sleep(0.01)
        read.may_go_on.set()
        for each in failing:
            with pytest.raises(ValueError, match="bad"):
                await each
        assert await first == "A"
        assert await together.get("b") == "B"

    run(asked())


def test_one_who_hangs_up_takes_the_answer_from_no_one_else() -> None:
    async def asked() -> None:
        read = Read()
        together = Together(read)
        gone, stays = asyncio.create_task(together.get("a")), asyncio.create_task(together.get("a"))
        await under_way(read)
        gone.cancel()
        await asyncio.sleep(0.01)
        read.may_go_on.set()
        assert await stays == "A"
        assert gone.cancelled()
        assert read.batches == [["a"]]

    run(asked())
