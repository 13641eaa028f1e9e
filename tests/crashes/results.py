"""What trials have found, a line of JSON each, kept in the repository."""

import json
import os
import platform
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.crashes.trial import Outcome

RESULTS = Path(__file__).parent / "results"


def entry(outcome: Outcome, *, warm: bool) -> dict[str, Any]:
    """One trial. recovered: seconds from each kill to the first new output, by deployment"""
    return {
        "seed": outcome.seed,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "kills": outcome.kills,
        "faults": outcome.faults,
        "events": outcome.verdict.events,
        "lost": outcome.verdict.lost,
        "doubled": outcome.verdict.doubled,
        "audit_clean": outcome.verdict.audited,
        "repeated_requests": outcome.verdict.repeated,
        "recovered_s": outcome.recovered,
        "ended": outcome.ended,
        "seconds": outcome.seconds,
        "catch_up_s": outcome.catch_up_s,
        "board_polls": outcome.board_polls,
        "starts": "forked" if warm else "cold",
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "commit": _commit(),
        "findings": outcome.findings,
    }


def append(path: Path, line: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, separators=(",", ":")) + "\n")


def replace(path: Path, line: dict[str, Any], *, key: str) -> None:
    """Keep the line instead of the one with the same key."""
    kept = [each for each in lines(path) if each[key] != line[key]]
    path.unlink(missing_ok=True)
    for each in (*kept, line):
        append(path, each)


def trials(folder: Path = RESULTS) -> Iterator[dict[str, Any]]:
    """All that were kept."""
    for path in sorted(folder.glob("trials*.jsonl")):
        yield from lines(path)


def lines(path: Path) -> list[dict[str, Any]]:
    """Of a file of results; none where there is no file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _commit() -> str:
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=RESULTS.parent, capture_output=True, text=True, check=False
    )
    return found.stdout.strip()
