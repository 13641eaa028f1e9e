"""What the number of contents costs the Redis flow: python -m tests.performance.bench_contents [--sizes 1000,100000]

For each size a topic whose events are about so many contents (Zipf 1.0), all of them in PostgreSQL; the flow reads
them at its start, so the rate counts from the first acknowledged event. The raw drain of the same topic beside it.
"""

from pathlib import Path
from typing import Annotated

import typer

from tests.performance.backlog import put_contents
from tests.performance.drain import Drained, drain
from tests.performance.pictures import contents as picture
from tests.performance.record import Record, console, table
from tests.performance.site import site


def main(
    sizes: Annotated[str, typer.Option(help="contents, ascending, comma separated")] = "1000,10000,100000,1000000",
    events: Annotated[int, typer.Option(help="in each topic")] = 500_000,
    rounds: Annotated[int, typer.Option(min=1)] = 2,
    per_second: Annotated[float, typer.Option(help="the rate at which the backlog arose")] = 2000,
    output: Annotated[Path | None, typer.Option(help="JSON; default: the committed result")] = None,
) -> None:
    """Measure, print, draw, record."""
    counts = [int(each) for each in sizes.split(",")]
    record = Record("bench_contents", {"sizes": counts, "events": events, "rounds": rounds})
    rows = []
    with site(counts[0]) as place:
        for size in counts:
            place.contents = put_contents(place.pipeline.postgres, size)
            topic = place.topic(f"contents-{size}", events, per_second)
            found: list[tuple[Drained, Drained]] = []
            for number in range(1, rounds + 1):
                found.append((drain(place, "raw", topic=topic), drain(place, "redis", topic=topic)))
                redis = found[-1][1]
                console.print(f"round {number}: {size:,} contents: {_rate(redis):,.0f}/s, {redis.rss_mb:.0f} MB")
                record.samples += [{"contents": size, "round": number, **each.sample()} for each in found[-1]]
            rate = record.figure(f"{size}.rate", (_rate(each) for _, each in found))
            share = record.figure(f"{size}.of_raw", (_rate(each) / raw.rate for raw, each in found))
            cpu = record.figure(f"{size}.cpu_per_million", (each.cpu_per_million for _, each in found))
            rss = record.figure(f"{size}.rss_mb", (each.rss_mb for _, each in found))
            first = record.figure(f"{size}.first_s", (each.first_s for _, each in found))
            rows.append([f"{size:,}", rate.text(), share.text(2), cpu.text(2), rss.text(), first.text(1)])
    table(
        "redis, one process, median (range)", ["contents", "events/s", "of raw", "CPU s/M", "RSS MB", "first s"], rows
    )
    record.write(output)
    if output is None:
        picture()


def _rate(each: Drained) -> float:
    """Events per second from the first that was acknowledged."""
    return each.events / (each.seconds - each.first_s)


if __name__ == "__main__":
    typer.run(main)
