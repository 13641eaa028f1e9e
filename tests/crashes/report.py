"""The crash trials and control runs as a section of METRICS.md."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tests.crashes.results import RESULTS, lines, trials

DESTINATIONS = ("kafka", "redis", "bigquery", "partner", "dead_letters")


def crash_section() -> str:
    """Markdown, from what tests/crashes/results holds."""
    found = list(trials())
    if not found:
        return "## Crashes\n\nNo trial was kept: `make crash-test KILLS=100 SEED=1`.\n"
    parts = [_summary(found), _destinations(found), _kills(found), _recovery(found), _findings(found), _controls()]
    return "\n".join(part for part in parts if part)


def _summary(found: Sequence[Mapping[str, Any]]) -> str:
    kills = sum(sum(each["kills"].values()) for each in found)
    events = sum(each["events"] for each in found)
    seeds = sorted({each["seed"] for each in found})
    minutes = sum(each["seconds"] for each in found) / 60
    dirty = sum(bool(each["findings"]) for each in found)
    commits = sorted({each["commit"] for each in found})
    return (
        f"## Crashes\n\n{kills:,} kills in {len(found)} trials (seeds {_ranges(seeds)}), {events:,} events, "
        f"{minutes:.0f} minutes; {dirty} trials with a finding. Machine: {found[-1]['machine']}, shared; "
        f"commits {', '.join(commits)}.\nRepeat one: `python -m tests.crashes.harness --trials 1 --seed SEED`; more: "
        "`make crash-test KILLS=n SEED=s`.\n"
    )


def _destinations(found: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for name in DESTINATIONS:
        lost = sum(each["lost"].get(name, 0) for each in found if not _stuck(each, name))
        waiting = sum(each["lost"].get(name, 0) for each in found if _stuck(each, name))
        doubled = sum(each["doubled"].get(name, 0) for each in found)
        repeated = sum(each["repeated_requests"] for each in found) if name == "partner" else ""
        rows.append([name, f"{lost:,}", f"{doubled:,}", f"{waiting:,}", f"{repeated:,}" if repeated != "" else ""])
    head = ["by event id", "lost", "doubled", "still waiting at the end", "requests repeated under the same key"]
    polls = sum(each["board_polls"] for each in found)
    back = sum("went back" in finding for each in found for finding in each["findings"])
    return (
        _table(head, rows)
        + "\nStill waiting: the process stood still until its trial was over, and the rows lay behind its position "
        f"(findings, below). Boards were read {polls:,} times meanwhile; trials in which a number went back: {back}.\n"
    )


def _stuck(trial: Mapping[str, Any], destination: str) -> bool:
    """Whether a process of it stood still until the end of the trial: what lies behind its position is not lost, it
    waits. That is a finding all the same, and listed as one."""
    keeper = "capture" if destination == "kafka" else destination
    return any(re.match(rf"not caught up after \d+ s: {keeper}\b", finding) for finding in trial["findings"])


def _kills(found: Sequence[Mapping[str, Any]]) -> str:
    victims: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    for each in found:
        victims.update(each["kills"])
        faults.update(each["faults"])
    return (
        _table(["killed with SIGKILL", "times"], [[name, f"{n:,}"] for name, n in victims.most_common()])
        + "\n"
        + _table(["fault (tests/crashes/faults.py)", "times"], [[name, f"{n:,}"] for name, n in faults.most_common()])
    )


def _recovery(found: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for starts in ("forked", "cold"):
        chosen = [each for each in found if each["starts"] == starts]
        for sink in sorted({sink for each in chosen for sink in each["recovered_s"]}):
            seconds = [value for each in chosen for value in each["recovered_s"].get(sink, [])]
            p50, p99 = np.percentile(seconds, [50, 99])
            rows.append([sink, starts, f"{len(seconds):,}", f"{p50:.2f}", f"{p99:.2f}", f"{max(seconds):.2f}"])
    head = ["seconds from a kill to the first new output", "start", "kills", "p50", "p99", "longest"]
    return _table(head, rows) + (
        "\nWhat else had failed at the time is in them: the broker, the predecessor's replication slot, a partner "
        "that is away. Positions of BigQuery, dead letters and partner may follow their output by up to three "
        "seconds.\n"
    )


def _findings(found: Sequence[Mapping[str, Any]]) -> str:
    named = [
        [f"{each['seed']}", each["commit"], "; ".join(each["findings"])[:300]] for each in found if each["findings"]
    ]
    known = [[each["seed"], each["what"], each["cause"], each["test"]] for each in lines(RESULTS / "defects.jsonl")]
    parts = []
    if named:
        parts.append(_table(["seed", "commit", "found"], named))
    if known:
        parts.append(_table(["seed", "defect", "cause and fix", "its test"], known))
    return "\n".join(parts)


def _controls() -> str:
    rows = [[each["protection"], each["off"], each["found"]] for each in lines(RESULTS / "controls.jsonl")]
    if not rows:
        return ""
    head = ["control run without", "what happens instead", "what the count of events then finds"]
    return "Each protection switched off (`make crash-controls`): the same count fails.\n\n" + _table(head, rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    out = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    out += ["| " + " | ".join(str(cell).replace("|", "/").replace("\n", " ") for cell in row) + " |" for row in rows]
    return "\n".join(out) + "\n"


def _ranges(numbers: Sequence[int]) -> str:
    """1-4, 7 for 1, 2, 3, 4, 7."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)


if __name__ == "__main__":
    print(crash_section())  # noqa: T201
