"""How fast each deployment empties Kafka, as a share of what a consumer that does nothing with it reaches.

    python -m tests.performance.bench_drain [--flows raw,redis] [--processes 1,2] [--events 2000000] [--rounds 3]

raw       confluent-kafka, consume and value();  decode  also JSON -> struct
redis     the engagement dataflow with SINKS=redis: minutes, windows, boards, unique users, recent events
bigquery, partner, all   likewise, against a Storage Write server that acknowledges at once and a partner that answers
          after 5 ms; `all` is one process with every sink
naive     stock Bytewax: an event per item, a window per content, on few events

In each round every flow empties the same topic, the compared ones one after another; ratios are within a round. Time
runs from the first claimed position until the last event is acknowledged; start-up is reported apart (until that
position + until the first event is acknowledged). Recovery is on.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from tests.performance.drain import SINKS, Drained, drain
from tests.performance.profile import hottest
from tests.performance.record import Figure, Record, console, table
from tests.performance.site import Site, site

FLOWS = "raw,decode,redis,bigquery,partner,all,naive"
SLOW = ("all",)  # on fewer events


def main(
    flows: Annotated[str, typer.Option(help="which, comma separated")] = FLOWS,
    processes: Annotated[str, typer.Option(help="how many processes share the partitions, comma separated")] = "1,2",
    events: Annotated[int, typer.Option(help="in the topic")] = 2_000_000,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    contents: Annotated[int, typer.Option(help="in PostgreSQL; events are drawn by Zipf's law")] = 100_000,
    per_second: Annotated[float, typer.Option(help="the rate at which the backlog arose")] = 2000,
    events_slow: Annotated[int, typer.Option(help="for the flow with every sink")] = 0,
    events_naive: Annotated[int, typer.Option(help="for the naive flow")] = 40_000,
    profile: Annotated[Path | None, typer.Option(help="folder: an extra round under py-spy, its hottest lines")] = None,
    output: Annotated[Path | None, typer.Option(help="JSON; default: the committed result")] = None,
) -> None:
    """Measure, print, record."""
    wanted = flows.split(",")
    counts = [int(each) for each in processes.split(",")]
    slow = events_slow or min(events, 200_000)
    options = {"flows": wanted, "processes": counts, "events": events, "rounds": rounds, "contents": contents}
    record = Record("bench_drain", {**options, "per_second": per_second, "slow": slow, "naive": events_naive})
    done: list[tuple[int, Drained]] = []
    try:
        with site(contents) as place:
            topics = _fill(place, record, wanted, slow)
            for number, each in _rounds(place, wanted, counts, rounds, topics):
                done.append((number, each))
                _say(number, each)
            if profile:
                _profiled(place, wanted, topics, profile)
    except SystemExit:  # told to end: what there is, on the terminal alone
        _summarise(record, done)
        raise
    record.samples = [{"round": number, **each.sample()} for number, each in done]
    _summarise(record, done)
    record.write(output)


def _fill(place: Site, record: Record, wanted: Sequence[str], slow: int) -> dict[str, str]:
    """The topics' events, and the stand-ins; flow -> its topic, where that is not the pipeline's."""
    for kind in ("bigquery", "partner"):
        if kind in wanted or "all" in wanted:
            place.stand_in(kind)
    events, per_second = record.options["events"], record.options["per_second"]
    naive = min(events, record.options["naive"])
    size = place.fill(events, per_second)
    topics = dict.fromkeys(SLOW, place.topic("slow-events", slow, per_second))
    topics["naive"] = place.topic("naive-events", naive, per_second)
    record.notes.append(
        f"{events:,} events of {size:.0f} bytes, 4 partitions, {len(place.contents):,} contents (Zipf 1.0), event "
        f"times over the last {events / per_second:,.0f} s; all-in-one on {slow:,}, naive on {naive:,}"
    )
    console.print(record.notes[0])
    return topics


def _rounds(
    place: Site, wanted: Sequence[str], counts: Sequence[int], rounds: int, topics: dict[str, str]
) -> Iterator[tuple[int, Drained]]:
    """(round, what it took) of each flow with each number of processes; the naive one alone."""
    for number in range(1, rounds + 1):
        for count in counts:
            for flow in wanted:
                if flow != "naive" or count == 1:
                    yield number, drain(place, flow, processes=count, topic=topics.get(flow))


def _profiled(place: Site, wanted: Sequence[str], topics: dict[str, str], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for flow in (each for each in wanted if each in SINKS):
        drain(place, flow, topic=topics.get(flow), profile=folder / f"{flow}.txt")
        hottest(folder / f"{flow}.txt", flow)


def _say(number: int, each: Drained) -> None:
    servers = ", ".join(f"{name} {seconds:.1f}" for name, seconds in each.servers.items() if seconds >= 0.1)
    console.print(
        f"round {number}: {each.flow} x{each.processes}: {each.rate:,.0f}/s, {each.cpu_per_million:.2f} CPU s/M, "
        f"{each.rss_mb:.0f} MB, start {each.startup_s:.1f} + {each.first_s:.1f} s "
        f"[dim](servers, CPU s: {servers})[/dim]",
        highlight=False,
    )


def _summarise(record: Record, done: list[tuple[int, Drained]]) -> None:
    """Figures per flow and number of processes; ratios to the raw drain (by one process, and by as many) and to the
    naive flow, within a round."""
    by = {(number, each.flow, each.processes): each for number, each in done}
    rows = []
    for flow, processes in dict.fromkeys((each.flow, each.processes) for _, each in done):
        runs = [(number, each) for number, each in done if (each.flow, each.processes) == (flow, processes)]
        key = f"{flow}.{processes}"
        rate = record.figure(f"{key}.rate", (each.rate for _, each in runs))
        cpu = record.figure(f"{key}.cpu_per_million", (each.cpu_per_million for _, each in runs))
        rss = record.figure(f"{key}.rss_mb", (each.rss_mb for _, each in runs))
        starting = record.figure(f"{key}.startup_s", (each.startup_s for _, each in runs))
        record.figure(f"{key}.first_s", (each.first_s for _, each in runs))
        servers = {}
        for name in ("redis", "kafka"):
            used = [each.servers[name] / each.events * 1e6 for _, each in runs]
            servers[name] = record.figure(f"{key}.{name}_cpu_per_million", used)
        ratios: list[Figure | None] = []
        for what, base in (("raw", ("raw", 1)), ("raw_as_many", ("raw", processes)), ("naive", ("naive", 1))):
            pairs = [(each, by[number, *base]) for number, each in runs if (number, *base) in by]
            shares = [each.rate / other.rate for each, other in pairs]
            ratios.append(record.figure(f"{key}.of_{what}", shares) if pairs and base != (flow, processes) else None)
        of_raw, _, of_naive = ratios
        rows.append(
            [
                f"{flow} x{processes}",
                rate.text(),
                of_raw.text(2) if of_raw else "",
                of_naive.text(1) if of_naive else "",
                cpu.text(2),
                servers["redis"].text(2) if flow in SINKS else "",
                servers["kafka"].text(2),
                rss.text(),
                starting.text(1),
            ]
        )
    columns = ["flow", "events/s", "of raw x1", "x naive", "CPU s/M", "Valkey s/M", "broker s/M", "RSS MB", "start s"]
    table("median (range)", columns, rows)


if __name__ == "__main__":
    typer.run(main)
