"""Where a deployment's time goes, by line: python -m tests.performance.bench_profile [--flows redis,bigquery,partner]

Each flow empties the topic once with py-spy beside it (250 looks a second at its main thread and others that run),
which slows it down a little: the shares count, not the rate. The folded stacks stay in --folder for flame graphs.
"""

from pathlib import Path
from typing import Annotated

import typer

from tests.performance.drain import SINKS, drain
from tests.performance.profile import hottest
from tests.performance.record import Record
from tests.performance.site import site


def main(
    flows: Annotated[str, typer.Option(help=f"of {', '.join(SINKS)}; comma separated")] = "redis,bigquery,partner",
    events: Annotated[int, typer.Option(help="in the topic")] = 1_000_000,
    events_slow: Annotated[int, typer.Option(help="for flows that wait for the partner")] = 200_000,
    contents: Annotated[int, typer.Option()] = 100_000,
    folder: Annotated[Path, typer.Option(help="for the folded stacks")] = Path("/tmp/engagement-profiles"),
    output: Annotated[Path | None, typer.Option(help="JSON; default: the committed result")] = None,
) -> None:
    """Profile, print, record."""
    wanted = flows.split(",")
    record = Record("bench_profile", {"flows": wanted, "events": events, "slow": events_slow, "contents": contents})
    folder.mkdir(parents=True, exist_ok=True)
    with site(contents) as place:
        place.fill(events, 2000)
        slow = place.topic("slow-events", events_slow, 2000)
        for flow in wanted:
            for kind in ("bigquery", "partner"):
                if kind in SINKS[flow].split(","):
                    place.stand_in(kind)
            stacks = folder / f"{flow}.txt"
            drain(place, flow, topic=slow if "partner" in SINKS[flow] else None, profile=stacks)
            record.samples += [{"flow": flow, "line": line, "share": part} for line, part in hottest(stacks, flow)]
    record.write(output)


if __name__ == "__main__":
    typer.run(main)
