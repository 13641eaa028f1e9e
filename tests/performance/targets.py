"""What the pipeline is meant to reach, and where the figure that says whether it does lies."""

import operator
from collections.abc import Callable
from dataclasses import dataclass

FLOWS = ("redis", "bigquery", "partner", "all")


@dataclass(frozen=True)
class Target:
    """`figure` of the result `bench` must be at least (or, `at_most`, at most) `value`.

    worst   judge by the worst sample, not by the median: for promises about every case
    digits  of the figure as it is shown
    """

    what: str
    bench: str
    figure: str
    value: float
    unit: str = ""
    at_most: bool = False
    worst: bool = False
    digits: int = 2

    @property
    def compares(self) -> Callable[[float, float], bool]:
        return operator.le if self.at_most else operator.ge

    @property
    def text(self) -> str:
        return f"{'<=' if self.at_most else '>='} {self.value:,g} {self.unit}".rstrip()


def _drain(what: str, figure: str, value: float, unit: str = "", **more: bool | int) -> Target:
    return Target(what, "bench_drain", figure, value, unit, **more)  # type: ignore[arg-type]


TARGETS = (
    _drain("BigQuery, two processes, of the raw drain", "bigquery.2.of_raw", 0.45),
    _drain("Redis, two processes, of the raw drain", "redis.2.of_raw", 0.25),
    _drain("Redis, one process, of the raw drain", "redis.1.of_raw", 0.2),
    _drain("Redis, one process", "redis.1.rate", 200_000, "events/s", digits=0),
    _drain("Redis, CPU seconds per million events", "redis.1.cpu_per_million", 5, at_most=True),
    *(_drain(f"{flow}, one process, of naive Bytewax", f"{flow}.1.of_naive", 10, "x", digits=1) for flow in FLOWS),
    _drain("partner, answers after 5 ms", "partner.1.rate", 10_000, "events/s", digits=0),
    *(
        _drain(f"{flow}, peak RSS at 100k contents", f"{flow}.1.rss_mb", 400, "MB", at_most=True, worst=True, digits=0)
        for flow in FLOWS
    ),
    *(
        Target(
            f"commit to {where}, {rate:,} rows/s, {percentile}",
            f"bench_freshness_{rate}",
            f"{where.lower()}.{percentile}",
            value,
            "ms",
            at_most=True,
            digits=0,
        )
        for rate, percentile, value in ((2000, "p50", 50), (2000, "p99", 250), (10000, "p99", 1000))
        for where in ("Redis", "API")
    ),
    Target("capture, backlog", "bench_capture", "capture.rate", 25_000, "rows/s", digits=0),
    *(
        Target(
            f"kill -9 to first new output, {flow}",
            "bench_recovery",
            f"{flow}.seconds",
            5,
            "s",
            at_most=True,
            worst=True,
            digits=1,
        )
        for flow in ("redis", "bigquery", "partner")
    ),
    Target(
        "an epoch's snapshots at 100k contents", "bench_recovery", "snapshot.mean_ms", 100, "ms", at_most=True, digits=0
    ),
    Target("API, 500 requests/s beside 2,000 events/s, p99", "bench_api", "all.p99", 20, "ms", at_most=True, digits=1),
)
