"""Seconds from Kafka to each destination, with a deployment per sink: python -m tests.performance.bench_fan_out

    --rate 2000 --seconds 30     what is produced; BigQuery is the emulator, so its figures are the emulator's too

Kafka's timestamp is LogAppendTime. An event is at the partner when its store shows it, in Redis when the position that
is written with the totals has passed it (both looked at every 50 ms); in BigQuery `sent` is its ingest_timestamp, and
`visible` when a query (about one a second) found it. Ends with 1 where p99 of partner or BigQuery is 30 s or more.
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from demo.services import KINDS
from tests.conftest import KafkaService
from tests.fan_out import SINKS, FanOut, Partner, Place
from tests.pipeline import every

HELD_WITHIN_S = 30.0
Positions = dict[int, int]


class Arrivals:
    """When each event was seen where, seconds since 1970."""

    def __init__(self, fan_out: FanOut) -> None:
        self._fan_out = fan_out
        self._seq = 0
        self.partner: dict[str, float] = {}
        self._redis: list[tuple[float, Positions]] = []
        self._bigquery: list[tuple[float, Positions]] = []

    def look_at_partner(self) -> None:
        rows = self._fan_out.partner.ask(f"SELECT seq, event_id FROM effects WHERE seq > {self._seq} ORDER BY seq")
        now = time.time()
        for seq, event_id in rows:
            self._seq, self.partner[event_id] = seq, now

    def look_at_redis(self) -> None:
        self._redis.append((time.time(), self._fan_out.positions()))

    def look_at_bigquery(self) -> None:
        rows = self._fan_out.bigquery_rows("kafka_partition, MAX(kafka_offset) + 1", "GROUP BY kafka_partition")
        self._bigquery.append((time.time(), dict(rows)))

    def waits(self, accepted: dict[str, Place]) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
        """Destination -> seconds of each event."""
        sent = {event_id: at.timestamp() for event_id, at in self._fan_out.bigquery_rows("event_id, ingest_timestamp")}
        return {
            "Redis": self._by_position(self._redis, accepted),
            "partner": np.array([self.partner[event_id] - place.at for event_id, place in accepted.items()]),
            "BigQuery, sent": np.array([sent[event_id] - place.at for event_id, place in accepted.items()]),
            "BigQuery, visible": self._by_position(self._bigquery, accepted),
        }

    def _by_position(self, samples: list[tuple[float, Positions]], accepted: dict[str, Place]) -> Any:
        """Landings are prefixes: an offset is there with the first position beyond it."""
        times = np.array([at for at, _ in samples])
        seen = {p: np.array([at.get(p, 0) for _, at in samples]) for p in range(self._fan_out.partitions)}
        return np.array(
            [
                times[np.searchsorted(seen[each.partition], each.offset, side="right")] - each.at
                for each in accepted.values()
            ]
        )


@contextmanager
def services(root: Path) -> Iterator[FanOut]:
    """Kafka, PostgreSQL, Valkey, the BigQuery emulator and a partner; a provisioned pipeline on them."""
    with ExitStack() as stack:
        found = {}
        for kind, server in KINDS.items():
            home = root / f"{kind}-server"
            home.mkdir(mode=0o711)
            found[kind] = server(home)
            found[kind].start()
            stack.callback(found[kind].stop)
        partner = Partner(root)
        partner.start()
        stack.callback(partner.stop)
        kafka = KafkaService(found["kafka"].address["bootstrap"])
        made = FanOut(kafka, found["postgres"].address["dsn"], found["redis"].address["url"], "bench", root)
        stack.callback(made.close)
        made.connect(partner, found["bigquery"], EXTERNAL_API_BATCH_SIZE="500", EXTERNAL_API_TIMEOUT_SECONDS="10")
        yield made


def measure(fan_out: FanOut, rate: int, seconds: float) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    """Start the deployments, produce, wait until all is everywhere."""
    for flow in [fan_out.start_sink(sink) for sink in SINKS]:
        fan_out.claimed(flow)
    arrivals = Arrivals(fan_out)
    looks = [(0.05, arrivals.look_at_partner), (0.05, arrivals.look_at_redis), (1.0, arrivals.look_at_bigquery)]
    with ExitStack() as stack:
        for pause, look in looks:
            stack.enter_context(every(pause, look))
        with fan_out.load(rate):
            time.sleep(seconds)
        fan_out.all_caught_up(120)
    for _, look in looks:
        look()
    return arrivals.waits(fan_out.assert_everything_once())


def main(
    rate: Annotated[int, typer.Option(help="events a second")] = 2000,
    seconds: Annotated[float, typer.Option(help="how long to produce")] = 30,
) -> None:
    """Print p50, p99 and max of each destination."""
    with tempfile.TemporaryDirectory(prefix="engagement-bench-") as folder:
        root = Path(folder)
        root.chmod(0o711)
        with services(root) as fan_out:
            waits = measure(fan_out, rate, seconds)
    lines = [f"{'seconds from Kafka to':24} {'events':>8} {'p50':>8} {'p99':>8} {'max':>8}"]
    for name, each in waits.items():
        p50, p99 = np.percentile(each, [50, 99])
        lines.append(f"{name:24} {len(each):8} {p50:8.3f} {p99:8.3f} {each.max():8.3f}")
    typer.echo("\n".join(lines))
    late = [name for name, each in waits.items() if np.percentile(each, 99) >= HELD_WITHIN_S]
    if late:
        sys.exit(f"not within {HELD_WITHIN_S:.0f} s: {', '.join(late)}")


if __name__ == "__main__":
    typer.run(main)
