"""The demo on a terminal: the state, the board, the destinations. Elsewhere: one plain line."""

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from demo.facts import Facts, SinkFacts
from demo.state import WORDS, state_of

TONES = {"ok": "bold green", "info": "bold cyan", "warn": "bold yellow", "bad": "bold red"}
BARS = " ▁▂▃▄▅▆▇█"
ROWS = 10


def screen(facts: Facts, failed: Mapping[str, str], footer: str, kills: Sequence[str] = ()) -> RenderableType:
    """Everything at once. failed: processes that are not running, with the reason; footer: how to end it, the logs;
    kills: lines about what was killed."""
    state = state_of(facts, failed)
    head = Text.assemble(
        (f"● {state.word}", TONES[state.tone]),
        "   ",
        (_age(facts.age_s), "bold"),
        ("  newest event", "dim"),
        "   ",
        (_number(facts.rate), "bold"),
        ("  events/s", "dim"),
    )
    parts: list[RenderableType] = [head, Text(state.sentence, style="dim"), _board(facts), _sinks(facts)]
    parts += [Text(f"{name} {reason}", style="red", overflow="ellipsis") for name, reason in sorted(failed.items())]
    parts += [Text(kill, style="magenta") for kill in kills]
    return Panel(Group(*parts), title="Engagement, last ten minutes", title_align="left", subtitle=footer)


def line(facts: Facts, failed: Mapping[str, str]) -> str:
    """The same in one line, for a log."""
    state = state_of(facts, failed)
    waiting = " ".join(f"{sink}={_number(seen.waiting)}" for sink, seen in facts.sinks.items())
    top = f'; top: "{facts.board[0].title}" {facts.board[0].score:,.1f}' if facts.board else ""
    reasons = "".join(f"; {name} {reason}" for name, reason in sorted(failed.items()))
    return (
        f"{state.word}: {_number(facts.events)} events, {_number(facts.rate)}/s, newest {_age(facts.age_s)}, "
        f"rejected {facts.rejected}, waiting {waiting}{top}{reasons}"
    )


def _board(facts: Facts) -> Table:
    board = Table(box=None, expand=True, pad_edge=False)
    board.add_column("", justify="right", width=2)
    board.add_column("title", ratio=1, no_wrap=True, overflow="ellipsis")
    board.add_column("type", width=10)
    board.add_column("minutes", width=10, no_wrap=True)
    for name, width in (("score", 10), ("events", 8), ("people", 8)):
        board.add_column(name, justify="right", width=width)
    highest = max((count for row in facts.board for count in row.minutes), default=0)
    for row in facts.board[:ROWS]:
        numbers = (f"{row.score:,.1f}", f"{row.events:,}", f"{row.unique_users:,}")
        bars = "".join(_bar(count, highest) for count in row.minutes)
        board.add_row(str(row.rank), Text(row.title), row.content_type, Text(bars, style="cyan"), *numbers)
    for _ in range(ROWS - len(facts.board)):  # the height stays
        board.add_row("", "", "", "", "", "", "")
    return board


def _sinks(facts: Facts) -> Table:
    sinks = Table(box=None, expand=True, pad_edge=False)
    for name, width in (("destination", 14), ("waiting", 10), ("events/s", 9), ("breaker", 8), ("state", 12)):
        sinks.add_column(name, width=width, justify="right" if name in ("waiting", "events/s") else "left")
    sinks.add_column("", ratio=1, no_wrap=True, overflow="ellipsis")
    behind = "–" if facts.capture_bytes is None else f"{facts.capture_bytes / 1024:,.0f} kB"
    sinks.add_row("Capture", behind, "", "", "", "")
    for sink, seen in facts.sinks.items():
        name = "Redis" if sink == "redis" else WORDS[sink]
        note = f"{facts.rejected:,} rejected" if sink == "dead_letters" else seen.error
        note = f"{facts.late:,} late" if sink == "redis" and not seen.error else note
        breaker = "–" if seen.silent else "open" if seen.open else "closed"
        sinks.add_row(
            name, _number(seen.waiting), _number(seen.rate), breaker, _condition(seen), Text(note, style="dim")
        )
    return sinks


def _condition(seen: SinkFacts) -> Text:
    if seen.open:
        return Text("▲ down", style="red")
    if seen.silent:
        return Text("✕ silent", style="yellow")
    return Text("● on time" if (seen.waiting or 0) < 2000 else "» behind", style="green")


def _bar(count: int, highest: int) -> str:
    return BARS[-(-count * (len(BARS) - 1) // highest)] if highest else " "


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:.0f} min"
