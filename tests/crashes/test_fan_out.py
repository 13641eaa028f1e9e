"""Kill the deployments of every sink: each destination holds every event once, whatever was in flight."""

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.fan_out import SINKS, FanOut, Partner, progressed

KILLS = 10
SLEEP_S_MAX = 1.4


@pytest.fixture
def fan_out(
    kafka: Any, postgres: str, redis_url: str, unique: str, tmp_path: Path, bigquery_emulator: Any
) -> Iterator[FanOut]:
    partner = Partner(tmp_path)
    made = FanOut(kafka, postgres, redis_url, unique, tmp_path)
    try:
        partner.start()
        made.connect(partner, bigquery_emulator)
        yield made
    finally:
        made.close()
        partner.stop()


def kill_again_and_again(fan_out: FanOut, sink: str) -> int:
    """Ten starts and kills, half of them at work, half of them wherever the start is by then; then one that stays."""
    rng = random.Random(sink)
    moved = 0
    for number in range(KILLS):
        flow = fan_out.start_sink(sink)
        if number % 2:
            progressed(fan_out, sink)
            moved += 1
        else:
            fan_out.claimed(flow)
        time.sleep(rng.uniform(0, SLEEP_S_MAX))
        assert flow.process.poll() is None, flow.said()[-3000:]
        flow.kill()
    fan_out.start_sink(sink)
    return moved


@pytest.mark.timeout(300)
def test_ten_kills_of_each_deployment_lose_nothing_and_double_nothing(fan_out: FanOut) -> None:
    fan_out.partner.behave(delay_s=0.1)  # a kill then often meets a request that is taken, but not answered
    with fan_out.load(250), ThreadPoolExecutor(len(SINKS)) as pool:
        kills = [pool.submit(kill_again_and_again, fan_out, sink) for sink in SINKS]
        assert sum(each.result() for each in kills) == len(SINKS) * KILLS // 2
    fan_out.partner.behave()
    fan_out.all_caught_up(90)
    accepted = fan_out.assert_everything_once()
    fan_out.assert_partner_in_order(accepted)
    assert len(accepted) > 2000
    repeated = fan_out.partner.ask("SELECT key FROM requests GROUP BY key HAVING count(*) > 1")
    assert repeated, "no kill met a request in flight: the test proves little"


@pytest.mark.timeout(300)
def test_all_sinks_in_one_process_survive_kills_and_a_lost_recovery_directory(fan_out: FanOut) -> None:
    rng = random.Random(3)
    fan_out.partner.behave(delay_s=0.05)
    with fan_out.load(150):
        for number in range(5):
            flow = fan_out.start()
            progressed(fan_out, ("partner", "bigquery", "redis")[number % 3])
            time.sleep(rng.uniform(0, SLEEP_S_MAX))
            assert flow.process.poll() is None, flow.said()[-3000:]
            flow.kill()
            if number == 2:
                fan_out.forget_recovery()
        fan_out.start()
        progressed(fan_out, "bigquery")
    fan_out.partner.behave()
    fan_out.all_caught_up(90)
    fan_out.assert_partner_in_order(fan_out.assert_everything_once())
