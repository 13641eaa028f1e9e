"""The end of a bounded run: the operator's own audit of everything that ever entered."""

from pathlib import Path

from rich.console import Console

from demo.partner_receiver import effects
from operations.audit import CouldNotLook, audit
from settings import Settings

NAMED = 5  # of each difference


def everything_is_there(
    settings: Settings, sinks: tuple[str, ...], partner: Path | None, folder: Path, console: Console
) -> bool:
    """Show the audit's sums, and what differs. partner: its store; None: it is not ours to look into"""
    try:
        held = _exported(partner, folder) if partner is not None and "partner" in sinks else None
        report = audit(settings, sinks=sinks, partner_ids=held)
    except CouldNotLook as failure:
        console.print(str(failure), style="red", highlight=False, markup=False)
        return False
    console.print(report.table)
    for finding in report.findings:
        console.print(finding.said(NAMED), style="red" if finding.is_error else "", highlight=False, markup=False)
    return report.clean


def _exported(partner: Path, folder: Path) -> Path:
    """What the partner holds, as a file that the audit reads."""
    exported = folder / "partner.jsonl"
    with exported.open("wb") as file:
        file.writelines(effects(partner))
    return exported
