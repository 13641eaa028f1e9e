"""What an audit found: findings by system and kind with the ids, and the sums of each sink."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from rich.table import Table

NAMES_MAX: Final = 1_000_000  # ids kept of one finding
HARMLESS: Final = {"stale", "from elsewhere"}


@dataclass
class Finding:
    """One kind of difference in one place. names: event ids, or partition/offset where there is none."""

    where: str
    kind: str
    count: int = 0
    names: list[str] = field(default_factory=list)

    @property
    def is_error(self) -> bool:
        return self.kind not in HARMLESS

    def said(self, names_max: int) -> str:
        """One line: how many, and the first of them."""
        shown = ", ".join(self.names[:names_max])
        more = f" and {self.count - names_max:,} more" if self.count > names_max else ""
        return f"{self.where}: {self.count:,} {self.kind}: {shown}{more}"


class Findings:
    """Findings by place and kind, as they come."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Finding] = {}

    def add(self, where: str, kind: str, names: Sequence[str]) -> None:
        """Add to a finding; nothing happens without names."""
        if not names:
            return
        finding = self._found.setdefault((where, kind), Finding(where, kind))
        finding.count += len(names)
        finding.names += names[: NAMES_MAX - len(finding.names)]

    def __iter__(self) -> Iterator[Finding]:
        """By place, what is missing first, what is no error last."""
        return iter(
            sorted(self._found.values(), key=lambda each: (each.where, each.kind in HARMLESS, _rank(each.kind)))
        )


def _rank(kind: str) -> int:
    order = ("missing", "doubled", "altered")
    return order.index(kind) if kind in order else len(order)


@dataclass
class Sums:
    """Where the records of one sink went, all of the audited range.

    records = delivered + refused + rejected + elsewhere + repaired + not_due, where nothing is missing or too much
    delivered  events that the sink holds       refused    dead letters of the sink      rejected  of parse
    elsewhere  for another sink alone           repaired   another record stands for it, which a repair wrote
    not_due    beyond the sink's position
    """

    sink: str
    records: int = 0
    delivered: int = 0
    refused: int = 0
    rejected: int = 0
    elsewhere: int = 0
    repaired: int = 0
    not_due: int = 0
    missing: int = 0
    surplus: int = 0

    @property
    def accounted(self) -> int:
        return self.delivered + self.refused + self.rejected + self.elsewhere + self.repaired + self.not_due

    @property
    def closed(self) -> bool:
        return self.records == self.accounted


@dataclass
class Report:
    """The outcome. clean: nothing but harmless differences, and every sum closes."""

    begin: str
    end: str
    findings: list[Finding]
    sums: list[Sums]
    notes: list[str] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not any(finding.is_error for finding in self.findings) and all(each.closed for each in self.sums)

    @property
    def table(self) -> Table:
        """The sums, a row per sink."""
        shown = Table(title=f"Every event, once, everywhere? {self.begin} to {self.end}", title_justify="left")
        columns = [
            ("records", [each.records for each in self.sums]),
            ("delivered", [each.delivered for each in self.sums]),
            ("dead letters", [each.refused for each in self.sums]),
            ("rejected", [each.rejected for each in self.sums]),
            ("for other sinks", [each.elsewhere for each in self.sums]),
            ("repaired", [each.repaired for each in self.sums]),
            ("not yet due", [each.not_due for each in self.sums]),
        ]
        columns = columns[:2] + [(name, numbers) for name, numbers in columns[2:] if any(numbers)]
        shown.add_column("")
        for name, _ in columns:
            shown.add_column(name, justify="right")
        shown.add_column("")
        different = {finding.where for finding in self.findings if finding.is_error}
        for at, each in enumerate(self.sums):
            verdict = "[green]equal[/]" if each.closed and each.sink not in different else "[red]DIFFERENT[/]"
            shown.add_row(each.sink, *(f"{numbers[at]:,}" for _, numbers in columns), verdict)
        return shown

    def as_json(self) -> dict[str, Any]:
        """Everything, with all names."""
        return {
            "from": self.begin,
            "to": self.end,
            "clean": self.clean,
            "findings": [
                {"where": each.where, "kind": each.kind, "count": each.count, "names": each.names}
                for each in self.findings
            ],
            "sums": [{**vars(each), "closed": each.closed} for each in self.sums],
            "notes": self.notes,
            "repaired": self.repaired,
        }
