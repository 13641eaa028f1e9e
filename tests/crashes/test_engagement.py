"""Kill the engagement flow in every way: Redis must hold what brute force computes, and its numbers never go back."""

import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest

from demo.watcher import Watcher
from tests.pipeline import Flow, Pipeline, events, every

KILLS = 10


@contextmanager
def load(pipeline: Pipeline, per_second: int, seed: int = 7) -> Iterator[None]:
    """Produce in the background, event times around now, until the block ends."""
    numbers = count(seed * 1000 + 1)
    with every(
        0.2, lambda: pipeline.produce(events(pipeline.contents, per_second // 5, seed=next(numbers), spread_s=900))
    ):
        yield


@contextmanager
def watched(pipeline: Pipeline) -> Iterator[Watcher]:
    """A reader of the windows while the block runs."""
    watcher = Watcher(pipeline.client(), pipeline.layout, pipeline.partitions)
    watcher.start()
    try:
        yield watcher
    finally:
        watcher.stop()


def progressed(pipeline: Pipeline, wait_for: Callable[..., Any]) -> None:
    """Wait until Redis has moved on since now: the flow is at work, wherever it is in it."""
    before = pipeline.positions()
    wait_for(lambda: pipeline.positions() != before, timeout=60, message="the flow to make progress")


@pytest.mark.timeout(400)
@pytest.mark.parametrize("recovery", ["kept", "deleted"])
def test_ten_kills_under_load_change_no_number_and_none_goes_back(pipeline, wait_for, recovery: str) -> None:
    rng = random.Random(recovery)
    with watched(pipeline) as watcher, load(pipeline, 1000):
        for _ in range(KILLS):
            flow = pipeline.start()
            progressed(pipeline, wait_for)
            time.sleep(rng.uniform(0, 1.5))  # at random, wherever it is
            flow.kill()
            if recovery == "deleted":
                pipeline.forget_recovery()
        pipeline.start()
        progressed(pipeline, wait_for)
    pipeline.caught_up()
    expected = pipeline.assert_equal()
    assert sum(row[0] for rows in expected.windows.values() for row in rows.values()) > 1000
    assert watcher.polls > 50
    assert watcher.went_back == []


@pytest.mark.timeout(300)
def test_one_two_one_processes_with_kills_change_no_number(pipeline, wait_for) -> None:
    with watched(pipeline) as watcher, load(pipeline, 800):
        for processes in (1, 2, 1, 2, 1):
            flows = pipeline.start_cluster(processes) if processes > 1 else [pipeline.start()]
            progressed(pipeline, wait_for)
            flows[-1].kill()
            for flow in flows:  # one death ends all
                flow.process.wait(20)
        pipeline.start()
        progressed(pipeline, wait_for)
    pipeline.caught_up()
    pipeline.assert_equal()
    assert watcher.went_back == []


@pytest.mark.timeout(300)
def test_shared_nothing_processes_die_alone(pipeline, wait_for) -> None:
    def start(partitions: str) -> Flow:
        return pipeline.start(f"redis.{partitions}", KAFKA_PARTITIONS=partitions)

    with load(pipeline, 800):
        first, second = start("0-1"), start("2-3")
        progressed(pipeline, wait_for)
        for _ in range(3):
            first.kill()
            before = pipeline.positions()
            wait_for(lambda before=before: pipeline.positions()[2] > before[2], timeout=30, message="the other process")
            first = start("0-1")
            wait_for(lambda before=before: pipeline.positions()[0] > before[0], timeout=30, message="the restarted one")
    pipeline.caught_up()
    pipeline.assert_equal()
    assert second.process.poll() is None


def test_a_flushed_redis_is_noticed_and_counted_anew(pipeline, redis_server, wait_for) -> None:
    pipeline.redis_url = redis_server.url
    pipeline.produce(events(pipeline.contents, 4000))
    flow = pipeline.start()
    pipeline.caught_up()
    pipeline.client().flushall()
    pipeline.produce(events(pipeline.contents, 1000, seed=2))
    wait_for(lambda: "LostWrites" in flow.said(), timeout=30, message="the flow to notice")
    pipeline.caught_up()
    pipeline.assert_equal()
    assert flow.process.poll() is None, "the process starts itself again"


@pytest.mark.timeout(240)
def test_an_older_copy_of_redis_is_noticed_and_counted_on(pipeline, redis_server, tmp_path, wait_for) -> None:
    pipeline.redis_url = redis_server.url
    pipeline.produce(events(pipeline.contents, 3000))
    flow = pipeline.start()
    pipeline.caught_up()
    redis_server.stop()
    shutil.copytree(redis_server.data_dir, tmp_path / "older")
    redis_server.start()
    pipeline.produce(events(pipeline.contents, 3000, seed=2))
    pipeline.caught_up()
    redis_server.stop()
    shutil.rmtree(redis_server.data_dir)
    shutil.copytree(tmp_path / "older", redis_server.data_dir, copy_function=_copy_with_owner)
    _give_back(redis_server.data_dir)
    redis_server.start()
    pipeline.produce(events(pipeline.contents, 500, seed=3))
    pipeline.caught_up(90)
    pipeline.assert_equal()
    assert "LostWrites" in flow.said()


def test_a_pause_of_fifteen_minutes_makes_nothing_late(pipeline) -> None:
    begin = datetime.now(UTC) - timedelta(minutes=50)
    before = [
        event | {"event_ts": (begin + timedelta(milliseconds=60 * number)).isoformat()}
        for number, event in enumerate(events(pipeline.contents, 3000))
    ]
    after = [
        event | {"event_ts": (begin + timedelta(minutes=18, milliseconds=60 * number)).isoformat()}
        for number, event in enumerate(events(pipeline.contents, 3000, seed=2))
    ]
    pipeline.produce(before)
    flow = pipeline.start()
    pipeline.caught_up()
    assert flow.stop() == 0
    pipeline.produce(after)
    pipeline.start()
    pipeline.caught_up()
    assert not pipeline.assert_equal().late


@pytest.mark.timeout(240)
def test_a_frozen_process_that_was_replaced_ends_when_it_wakes_up(pipeline, wait_for) -> None:
    with load(pipeline, 500):
        frozen = pipeline.start("first")
        progressed(pipeline, wait_for)
        frozen.process.send_signal(19)  # SIGSTOP
        pipeline.start("second")
        progressed(pipeline, wait_for)
        frozen.process.send_signal(18)  # SIGCONT
        assert frozen.process.wait(30) == 1
    pipeline.caught_up()
    pipeline.assert_equal()
    assert "has taken over" in frozen.said()
    assert "Traceback" not in frozen.said()
    again = pipeline.start("first")
    wait_for(lambda: "backing_off" in again.said(), timeout=30, message="it to back off")


def _copy_with_owner(source: str, target: str) -> str:
    return str(shutil.copy2(source, target))


def _give_back(directory: Any) -> None:
    """To whoever owns the folder above: the server may run as another user."""
    owner = directory.parent.stat()
    for path in [directory, *directory.rglob("*")]:
        shutil.chown(path, owner.st_uid, owner.st_gid)
