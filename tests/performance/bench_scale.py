"""How throughput grows with processes: python -m tests.performance.bench_scale [--flows raw,redis,bigquery]

1, 2 and 4 processes that share nothing (each its own Kafka partitions and recovery directory), and a Bytewax cluster
of two (`-i`, `-a`), which exchanges partial sums. The same topic, one after another in each round; ratios are to one
process of the same flow in the same round. On a machine with two cores more than two processes cannot be faster.
"""

from pathlib import Path
from typing import Annotated

import typer

from tests.performance.drain import RAW, SINKS, Drained, drain
from tests.performance.pictures import scale
from tests.performance.record import Record, console, table
from tests.performance.site import site

CLUSTER_OF = 2


def main(
    flows: Annotated[str, typer.Option(help="of raw, decode, redis, bigquery; comma separated")] = "raw,redis,bigquery",
    processes: Annotated[str, typer.Option(help="comma separated")] = "1,2,4",
    events: Annotated[int, typer.Option(help="in the topic")] = 1_000_000,
    rounds: Annotated[int, typer.Option(min=1)] = 2,
    contents: Annotated[int, typer.Option()] = 100_000,
    per_second: Annotated[float, typer.Option(help="the rate at which the backlog arose")] = 2000,
    output: Annotated[Path | None, typer.Option(help="JSON; default: the committed result")] = None,
) -> None:
    """Measure, print, draw, record."""
    wanted, counts = flows.split(","), [int(each) for each in processes.split(",")]
    options = {"flows": wanted, "processes": counts, "events": events, "rounds": rounds, "contents": contents}
    record = Record("bench_scale", options)
    done: list[tuple[int, Drained]] = []
    with site(contents) as place:
        if "bigquery" in wanted:
            place.stand_in("bigquery")
        place.fill(events, per_second)
        for number in range(1, rounds + 1):
            for flow in wanted:
                found = [drain(place, flow, processes=count) for count in counts]
                if flow not in RAW:
                    found.append(drain(place, flow, processes=CLUSTER_OF, cluster=True))
                for each in found:
                    console.print(
                        f"round {number}: {_name(each)}: {each.rate:,.0f}/s, {each.cpu_per_million:.2f} CPU s/M"
                    )
                done += [(number, each) for each in found]
    record.samples = [{"round": number, **each.sample()} for number, each in done]
    rows = []
    ones = {(number, each.flow): each for number, each in done if each.processes == 1}
    for name in dict.fromkeys(_name(each) for _, each in done):
        runs = [(number, each) for number, each in done if _name(each) == name]
        rate = record.figure(f"{name}.rate", (each.rate for _, each in runs))
        cpu = record.figure(f"{name}.cpu_per_million", (each.cpu_per_million for _, each in runs))
        rss = record.figure(f"{name}.rss_mb", (each.rss_mb for _, each in runs))
        pairs = [(each, ones[number, each.flow]) for number, each in runs if (number, each.flow) in ones]
        ratio = record.figure(f"{name}.of_one", (each.rate / one.rate for each, one in pairs)) if pairs else None
        rows.append([name, rate.text(), ratio.text(2) if ratio else "", cpu.text(2), rss.text()])
    table("median (range)", ["flow.processes", "events/s", "of one process", "CPU s/M", "RSS MB"], rows)
    record.write(output)
    if output is None:
        scale()


def _name(each: Drained) -> str:
    """redis.2, redis.cluster2"""
    assert each.flow in SINKS or each.flow in RAW
    return f"{each.flow}.{'cluster' if each.cluster else ''}{each.processes}"


if __name__ == "__main__":
    typer.run(main)
