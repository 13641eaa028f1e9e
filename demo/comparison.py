"""Whether everything that entered came out everywhere, once: sets of event ids, and counts per content and minute.

Nothing of the pipeline's own counting is used: the expectation is worked out anew from what PostgreSQL and Kafka hold.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

NAMED = 5  # of each difference


@dataclass(frozen=True)
class Check:
    """One comparison of two bags. missing, extra: what is on one side only; doubled: there, but more often."""

    what: str
    expected: int
    found: int
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    doubled: tuple[str, ...] = ()
    unknown: str = ""  # why it could not be compared

    @property
    def agrees(self) -> bool:
        return not (self.missing or self.extra or self.doubled or self.unknown)

    @property
    def differences(self) -> str:
        """In words; empty when both agree."""
        parts = [self.unknown] if self.unknown else []
        for word, names in (("missing", self.missing), ("unexpected", self.extra), ("doubled", self.doubled)):
            if names:
                more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
                parts.append(f"{len(names)} {word}: {', '.join(names[:NAMED])}{more}")
        return "; ".join(parts)


def compare(what: str, expected: Mapping[Any, int], found: Mapping[Any, int]) -> Check:
    """Compare two bags, key by key. A count that is too small is missing, one that is too large is doubled."""
    missing: list[str] = []
    extra: list[str] = []
    doubled: list[str] = []
    for key in expected.keys() | found.keys():
        wanted, got = expected.get(key, 0), found.get(key, 0)
        if got < wanted:
            missing.append(_named(key, wanted, got))
        elif got > wanted:
            (doubled if wanted else extra).append(_named(key, wanted, got))
    return Check(
        what,
        sum(expected.values()),
        sum(found.values()),
        tuple(sorted(missing)),
        tuple(sorted(extra)),
        tuple(sorted(doubled)),
    )


def _named(key: Hashable, wanted: int, got: int) -> str:
    name = " ".join(str(part) for part in key) if isinstance(key, tuple) else str(key)
    return name if {wanted, got} == {0, 1} else f"{name} ({got} of {wanted})" if wanted else f"{name} ({got})"


@dataclass(frozen=True, slots=True)
class Entry:
    """One record of the main topic, as it lies there; event_id None where it has no usable id."""

    partition: int
    offset: int
    kafka_ms: int
    event_id: str | None
    content_id: str | None
    event_us: int
    target: str | None = None  # of a replayed dead letter: the one sink that takes it


@dataclass(frozen=True)
class Contents:
    """What the topic holds, and which of it was refused: by `parse`, or by one destination."""

    entries: list[Entry]
    refused: Mapping[str, frozenset[tuple[int, int]]] = field(default_factory=dict)  # sink -> (partition, offset)

    def accepted(self, sink: str | None = None) -> Iterable[Entry]:
        """What parse accepted; for a sink: what it was to take and did not refuse."""
        refused = self.refused.get("parse", frozenset()) | self.refused.get(sink or "", frozenset())
        for entry in self.entries:
            if (entry.partition, entry.offset) not in refused and entry.target in (None, sink):
                yield entry

    def ids(self, sink: str | None = None) -> Counter[str]:
        return Counter(entry.event_id for entry in self.accepted(sink) if entry.event_id is not None)


def minutes_expected(contents: Contents, *, lateness_s: int, since_minute: int) -> Counter[tuple[str, int]]:
    """(content_id, minute) -> events that the boards must count, by the rule for lateness, record by record.

    The watermark of a partition is the running maximum of min(event_ts, Kafka timestamp); an event counts in its
    minute while the watermark before it is below the minute's end + lateness. since_minute: older ones are left out
    """
    counts: Counter[tuple[str, int]] = Counter()
    watermarks: dict[int, int] = {}
    for entry in sorted(contents.accepted("redis"), key=lambda entry: (entry.partition, entry.offset)):
        before = watermarks.get(entry.partition, 0)
        watermarks[entry.partition] = max(before, min(entry.event_us, entry.kafka_ms * 1000))
        minute = entry.event_us // 60_000_000
        late = before >= (minute + 1) * 60_000_000 + lateness_s * 1_000_000
        if entry.content_id is not None and not late and minute >= since_minute:
            counts[entry.content_id, minute] += 1
    return counts


def table(checks: Iterable[Check]) -> Table:
    """The comparison, a row per check."""
    shown = Table(title="Everything that entered, once, everywhere?", title_justify="left")
    for column, justify in (("compared", "left"), ("expected", "right"), ("found", "right"), ("", "left")):
        shown.add_column(column, justify=justify)  # type: ignore[arg-type]
    for check in checks:
        verdict = "[green]equal[/]" if check.agrees else f"[red]DIFFERENT[/]: {check.differences}"
        shown.add_row(check.what, f"{check.expected:,}", f"{check.found:,}", verdict)
    return shown
