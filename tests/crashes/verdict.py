"""What a trial has done to the events: lost and doubled per destination, by event id, against what PostgreSQL holds."""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from operations.audit import audit
from operations.audit.bigquery import READ
from settings import Settings
from tests.crashes.installation import Installation
from tests.crashes.load import POISON
from tests.fakes.capture import ids_in_table

NAMED = 5


@dataclass
class Verdict:
    """lost, doubled: destination -> number of event ids; findings: in words, empty when all is well.

    repeated  requests that came to the partner again under the same key: allowed, and counted
    audited   whether operations.audit, too, found everything in order"""

    events: int = 0
    lost: dict[str, int] = field(default_factory=dict)
    doubled: dict[str, int] = field(default_factory=dict)
    repeated: int = 0
    audited: bool = False
    findings: list[str] = field(default_factory=list)

    def compare(self, where: str, expected: Mapping[str, int], held: Mapping[str, int]) -> None:
        lost = sorted(key for key in expected if held.get(key, 0) < expected[key])
        doubled = sorted(key for key in held if held[key] > expected.get(key, 0))
        self.lost[where], self.doubled[where] = len(lost), len(doubled)
        for word, keys in (("lost", lost), ("doubled", doubled)):
            if keys:
                self.findings.append(f"{where}: {word} {len(keys)}: {', '.join(keys[:NAMED])}")


def judge(installation: Installation) -> Verdict:
    """Everything has arrived; nothing runs that could still change it."""
    verdict, pipeline = Verdict(), installation.pipeline
    rows = Counter(str(number) for number in ids_in_table(pipeline.postgres))
    records = pipeline.records()
    verdict.events = len(rows)
    verdict.compare("kafka", rows, Counter(str(json.loads(record.value())["id"]) for record in records))
    accepted: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    places: dict[str, tuple[int, int]] = {}
    for record in records:
        if POISON in record.value():
            rejected[f"{record.partition()}/{record.offset()}"] += 1
        else:
            event_id = str(json.loads(record.value())["id"])
            accepted[event_id] += 1
            places[event_id] = (record.partition(), record.offset())
    sinks = {deployment.sink for deployment in installation.deployments}
    if "bigquery" in sinks:
        verdict.compare("bigquery", accepted, Counter(row["event_id"] for row in installation.bigquery.rows))
    if "dead_letters" in sinks:
        verdict.compare("dead_letters", rejected, _letters(installation))
    if "partner" in sinks:
        _judge_partner(installation, verdict, accepted, places)
    if "redis" in sinks:
        _judge_boards(installation, verdict)
    _audit(installation, verdict, tuple(sorted(sinks - {"capture"})))
    return verdict


class _Rows:
    """What the test server holds, as the audit reads BigQuery."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows

    def rows(self, begin_us: int, end_us: int) -> Iterator[pa.RecordBatch]:
        yield from pa.Table.from_pylist(self._rows).select(list(READ)).to_batches() if self._rows else ()


def _audit(installation: Installation, verdict: Verdict, sinks: tuple[str, ...]) -> None:
    """The operator's own audit must come to the same result: python -m operations.audit."""
    export = installation.work / "partner.ids"
    if "partner" in sinks:
        with sqlite3.connect(f"file:{installation.store}?mode=ro", uri=True, timeout=10) as store:
            export.write_text("".join(f"{row[0]}\n" for row in store.execute("SELECT body FROM effects")))
    pipeline = installation.pipeline
    settings = Settings.from_env(env={**pipeline.environment(SINKS=",".join(sinks)), "DATABASE_URL": pipeline.postgres})
    partner_ids = export if "partner" in sinks else None
    report = audit(settings, sinks=sinks, partner_ids=partner_ids, bigquery=_Rows(installation.bigquery.rows))
    verdict.audited = report.clean
    verdict.findings += [f"audit: {finding.said(NAMED)}" for finding in report.findings if finding.is_error]
    verdict.findings += [
        f"audit: the sums of {sums.sink} do not close: {sums}" for sums in report.sums if not sums.closed
    ]


def _letters(installation: Installation) -> Counter[str]:
    """Dead letters by the record they are about; one of another sink than parse would be a healthy event refused."""
    found: Counter[str] = Counter()
    for message in installation.pipeline.records(installation.pipeline.letters):
        headers = {name: (value or b"").decode() for name, value in message.headers() or []}
        of = "" if headers["sink"] == "parse" else f"{headers['sink']}:"
        found[f"{of}{headers['partition']}/{headers['offset']}"] += 1
    return found


def _judge_partner(
    installation: Installation, verdict: Verdict, accepted: Counter[str], places: dict[str, tuple[int, int]]
) -> None:
    with sqlite3.connect(f"file:{installation.store}?mode=ro", uri=True, timeout=10) as store:
        effects = [row[0] for row in store.execute("SELECT event_id FROM effects ORDER BY seq")]
        repeats = "SELECT coalesce(sum(n - 1), 0) FROM (SELECT count(*) AS n FROM requests GROUP BY key)"
        verdict.repeated = int(store.execute(repeats).fetchone()[0])
        several = "SELECT count(*) FROM (SELECT key FROM requests GROUP BY key HAVING count(DISTINCT body_sha256) > 1)"
        conflicts = int(store.execute(several).fetchone()[0])
    verdict.compare("partner", accepted, Counter(effects))
    if conflicts:
        verdict.findings.append(f"partner: {conflicts} keys came with two bodies")
    last: dict[int, int] = {}
    for partition, offset in (places[event_id] for event_id in effects if event_id in places):
        if offset < last.get(partition, -1):
            verdict.findings.append(f"partner: offset {offset} of partition {partition} came behind {last[partition]}")
            break
        last[partition] = offset


def _judge_boards(installation: Installation, verdict: Verdict) -> None:
    """Bit for bit what brute force computes; a row of a window with too few events counts as lost, else as doubled."""
    pipeline = installation.pipeline
    expected, stored = pipeline.expected(lambda value: POISON in value), pipeline.stored()

    def counted(windows: Mapping[tuple[int, int], Mapping[str, list[int]]]) -> dict[str, int]:
        return {
            f"{partition}/{start}/{content}": row[0]
            for (partition, start), rows in windows.items()
            for content, row in rows.items()
        }

    verdict.compare("redis", counted(expected.windows), counted(stored.windows))
    for kind, wanted, found in (
        ("minutes", expected.minutes, stored.minutes),
        ("windows", expected.windows, stored.windows),
    ):
        held = {key: rows for key, rows in found.items() if rows}
        if held != dict(wanted):
            different = [key for key in wanted.keys() | held.keys() if wanted.get(key) != held.get(key)]
            verdict.findings.append(f"redis: {len(different)} {kind} differ from brute force: {sorted(different)[:3]}")
    if expected.late != stored.late:
        verdict.findings.append(f"redis: late events {dict(stored.late)}, brute force {dict(expected.late)}")
