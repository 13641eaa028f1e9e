"""One slow or dead destination does not hold up the others, and every deployment stops cleanly, whatever is down.

The outage lasts OUTAGE_SECONDS (20). Ten minutes, by hand; -s shows the figures:

    OUTAGE_SECONDS=600 .venv/bin/python -m pytest tests/integration/dataflows/test_fan_out.py -k outage -s
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fan_out import SINKS, FanOut, Partner, Place, progressed
from tests.pipeline import Flow, events, every

OUTAGE_S = float(os.environ.get("OUTAGE_SECONDS", "20"))
FRESH_S_MAX = 5.0
STOP_S_MAX = 30.0
SAMPLE_S = 0.03


@pytest.fixture
def fan_out(
    kafka: Any, postgres: str, redis_url: str, unique: str, tmp_path: Path, bigquery_server: Any
) -> Iterator[FanOut]:
    partner = Partner(tmp_path)
    made = FanOut(kafka, postgres, redis_url, unique, tmp_path)
    try:
        partner.start()
        made.connect(partner, bigquery_server)
        yield made
    finally:
        made.close()
        partner.stop()


def tell(text: str) -> None:
    """A figure, for those who run with -s."""
    sys.stdout.write(f"{text}\n")


class Freshness:
    """When each offset was visible in Redis: its position moves in the script that writes the totals."""

    def __init__(self, fan_out: FanOut) -> None:
        self._fan_out = fan_out
        self._samples: list[tuple[float, dict[int, int]]] = []

    @contextmanager
    def watched(self) -> Iterator[None]:
        with every(SAMPLE_S, lambda: self._samples.append((time.time(), self._fan_out.positions()))):
            yield

    def seconds(self, accepted: dict[str, Place]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Seconds from an event's Kafka timestamp to Redis, of those that came while watched and were seen there."""
        times = np.array([at for at, _ in self._samples])
        seen = {p: np.array([at[p] for _, at in self._samples]) for p in range(self._fan_out.partitions)}
        watched = [
            place for place in accepted.values() if place.at > times[0] and place.offset < seen[place.partition][-1]
        ]
        return np.array(
            [times[np.searchsorted(seen[each.partition], each.offset, side="right")] - each.at for each in watched]
        )


@pytest.mark.timeout(180 + 2 * OUTAGE_S)
def test_an_outage_of_partner_and_bigquery_leaves_redis_fresh_and_loses_nothing(
    fan_out: FanOut, bigquery_server: Any
) -> None:
    flows = {sink: fan_out.start_sink(sink) for sink in SINKS}
    freshness = Freshness(fan_out)
    with fan_out.load(200):
        for sink in SINKS:
            progressed(fan_out, sink)
        with freshness.watched():
            bigquery_server.pause()
            time.sleep(0.5)  # what is under way lands
            before = fan_out.partner.ask("SELECT count(*) FROM effects")
            # 503, then taken but answered beyond our timeout, then a wrong token
            for how in ({"status": 503}, {"delay_s": 60}, {"status": 401}):
                fan_out.partner.behave(**how)
                time.sleep(OUTAGE_S / 3)
            assert fan_out.partner.ask("SELECT count(*) FROM effects")[0][0] - before[0][0] < 500, "it was no outage"
            ended, held = time.monotonic(), fan_out.sink_positions("partner")
            fan_out.partner.behave()
            bigquery_server.resume()
        for sink in ("partner", "bigquery"):
            progressed(fan_out, sink)
    fan_out.all_caught_up(60 + OUTAGE_S)
    caught_up_s = time.monotonic() - ended
    accepted = fan_out.assert_everything_once()
    fan_out.assert_partner_in_order(accepted)
    assert {sink: flow.process.poll() for sink, flow in flows.items()} == dict.fromkeys(SINKS)
    waited = sum(held[place.partition] <= place.offset for place in accepted.values())
    assert waited > 100 * OUTAGE_S
    seconds = freshness.seconds(accepted)
    p50, p99 = np.percentile(seconds, [50, 99])
    tell(
        f"outage {OUTAGE_S:.0f} s: Redis p50 {p50:.3f} s, p99 {p99:.3f} s, max {seconds.max():.3f} s of {len(seconds)}"
        f" events; {waited} events waited for the partner; all caught up {caught_up_s:.1f} s after it"
    )
    assert len(seconds) > 100 * OUTAGE_S
    assert p99 < FRESH_S_MAX


def stopped(flow: Flow) -> float:
    """SIGTERM: exit code 0 within 30 s. Returns the seconds it took."""
    began = time.monotonic()
    assert flow.stop(STOP_S_MAX) == 0, flow.said()[-3000:]
    return time.monotonic() - began


def test_sigterm_ends_each_deployment_with_0_and_the_next_start_repeats_nothing(
    fan_out: FanOut,
) -> None:
    flows = {sink: fan_out.start_sink(sink) for sink in SINKS}
    fan_out.partner.behave(delay_s=0.1)  # something is in flight
    with fan_out.load(200):
        for sink, flow in flows.items():
            progressed(fan_out, sink)
            tell(f"{sink}: stopped within {stopped(flow):.1f} s")
    settled = {sink: fan_out.sink_positions(sink) for sink in SINKS}
    requests = "SELECT key FROM requests GROUP BY key HAVING count(*) > 1"
    again = {sink: fan_out.start_sink(sink) for sink in SINKS}
    fan_out.all_caught_up()
    assert {sink: fan_out.claims(flow) for sink, flow in again.items()} == settled
    assert fan_out.partner.ask(requests) == [], "a request that was answered went out again"
    fan_out.assert_partner_in_order(fan_out.assert_everything_once())


def test_sigterm_with_partner_and_bigquery_down_ends_with_0_and_loses_nothing(
    fan_out: FanOut, bigquery_server: Any, wait_for: Callable[..., Any]
) -> None:
    flows = {sink: fan_out.start_sink(sink) for sink in ("partner", "bigquery")}
    with fan_out.load(200):
        for sink in flows:
            progressed(fan_out, sink)
        fan_out.partner.stop()
        bigquery_server.pause()
        wait_for(lambda: "waiting_for_partner" in flows["partner"].said(), timeout=30, message="the partner's absence")
        wait_for(lambda: "waiting_for_bigquery" in flows["bigquery"].said(), timeout=60, message="BigQuery's absence")
        for sink, flow in flows.items():
            tell(f"{sink}: stopped within {stopped(flow):.1f} s")
    bigquery_server.resume()
    bigquery_server.kill()  # and its write streams are gone
    bigquery_server.start()
    fan_out.partner.start()
    for sink in SINKS:
        fan_out.start_sink(sink)
    fan_out.all_caught_up()
    fan_out.assert_partner_in_order(fan_out.assert_everything_once())
    answered = "SELECT key FROM requests WHERE status = 200 GROUP BY key HAVING count(*) > 1"
    assert len(fan_out.partner.ask(answered)) <= fan_out.partitions, "only what had no answer is repeated"


@pytest.mark.parametrize("down", ["paused", "stopped"])
def test_sigterm_with_kafka_down_ends_each_deployment_with_0(down: str, fan_out: FanOut, kafka_server: Any) -> None:
    fan_out.kafka = type(fan_out.kafka)(kafka_server.bootstrap)
    fan_out.provision()
    fan_out.produce([*events(fan_out.contents, 200), b"hello"])
    flows = {sink: fan_out.start_sink(sink) for sink in SINKS}
    fan_out.all_caught_up()
    fan_out.produce([*events(fan_out.contents, 200, seed=2), b"hello"])
    ends = fan_out.ends()
    if down == "paused":
        kafka_server.pause()
    else:
        kafka_server.stop()
    began = time.monotonic()
    for flow in flows.values():
        flow.process.terminate()
    for sink, flow in flows.items():
        assert flow.process.wait(STOP_S_MAX) == 0, flow.said()[-3000:]
        tell(f"{sink}: stopped within {time.monotonic() - began:.1f} s, Kafka {down}")
    assert time.monotonic() - began < STOP_S_MAX
    if down == "paused":
        kafka_server.resume()
    else:
        kafka_server.start()
    for sink in SINKS:
        fan_out.start_sink(sink)
    fan_out.all_caught_up(ends=ends)
    fan_out.assert_partner_in_order(fan_out.assert_everything_once())
