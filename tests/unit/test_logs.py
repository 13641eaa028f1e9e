"""One naming scheme for all that is logged: events in snake_case, fields that docs/glossary.md explains."""

import ast
import io
import json
import logging
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog

from logs import configure_logging

ROOT = Path(__file__).parent.parent.parent
FOLDERS = ("sources", "sinks", "dataflows", "api", "operations", "generator", "engagement")
LEVELS = ("debug", "info", "warning", "error", "exception")
# Added to any line: logs.py, api/request_log.py
EVERYWHERE = {"event", "level", "timestamp", "process", "logger", "exception", "request_id"}
PROGRESS = {"lsn", "rows", "events", "rejected", "offset_next"}  # of dataflows/progress_log.py, which is given them


@dataclass(frozen=True)
class Line:
    where: str
    level: str
    event: str | None
    fields: tuple[str, ...]


def lines() -> Iterator[Line]:
    """Every call that writes a line. event None: it is no literal."""
    for path in sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="log"), attr=level), args=[event]):
                    for name in (event.body, event.orelse) if isinstance(event, ast.IfExp) else (event,):
                        yield line(path, node, level, name)
                case ast.Call(func=ast.Name(id="say"), args=[event], keywords=[_, *_]):
                    yield line(path, node, "info", event)


def line(path: Path, node: ast.Call, level: str, event: ast.expr) -> Line:
    name = event.value if isinstance(event, ast.Constant) else None
    fields = tuple(keyword.arg for keyword in node.keywords if keyword.arg)
    return Line(f"{path.relative_to(ROOT)}:{node.lineno}", level, name, fields)


def explained() -> set[str]:
    text = (ROOT / "docs/glossary.md").read_text(encoding="utf-8")
    _, _, section = text.partition("\n## In the logs\n")
    rows = [row.split("|")[1] for row in section.partition("\n## ")[0].splitlines() if row.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def test_events_are_snake_case_and_have_a_level() -> None:
    found = list(lines())
    assert len(found) > 40
    assert [each for each in found if not re.fullmatch(r"[a-z]+(_[a-z]+)*", each.event or "")] == []
    assert [each for each in found if each.level not in LEVELS] == []


def test_an_event_has_one_level() -> None:
    levels = defaultdict(set)
    for each in lines():
        levels[each.event].add(each.level)
    assert {event: found for event, found in levels.items() if len(found) > 1} == {}


def test_what_is_away_is_waited_for() -> None:
    waiting = {each.event for each in lines() if each.event and each.event.startswith("waiting_for_")}
    assert waiting == {f"waiting_for_{name}" for name in ("kafka", "postgres", "redis", "bigquery", "partner")}


def test_the_glossary_explains_every_field_and_no_other() -> None:
    used = {field for each in lines() for field in each.fields} | EVERYWHERE | PROGRESS
    assert sorted(used - explained()) == []
    assert sorted(explained() - used) == []


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What a process with `configure_logging` writes."""
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    root, before = logging.getLogger(), structlog.get_config()
    handlers, level = root.handlers[:], root.level
    configure_logging("INFO", "api")
    yield written
    structlog.configure(**before)
    root.handlers[:], root.level = handlers, level


def said(output: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(text) for text in output.getvalue().splitlines()]


def test_ours_and_the_libraries_lines_are_json_of_one_kind(output: io.StringIO) -> None:
    structlog.get_logger().info("partition_claimed", partition=3, offset=7)
    structlog.get_logger().debug("request")
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    logging.getLogger("httpx").info("HTTP Request: POST https://partner/events?who=user_alice")
    ours, theirs = said(output)
    assert (ours["event"], ours["level"], ours["process"], ours["partition"]) == ("partition_claimed", "info", "api", 3)
    assert (theirs["event"], theirs["level"]) == ("Invalid HTTP request received.", "warning")
    assert (theirs["logger"], theirs["process"]) == ("uvicorn.error", "api")
    assert ours.keys() | theirs.keys() <= EVERYWHERE | {"partition", "offset"}


def test_a_traceback_is_one_line_without_the_values_of_its_frames(
    output: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", output)  # pytest has put its own there since

    def fail(user_id: str) -> None:
        raise ValueError("a defect")

    for terminal in (False, True):
        try:
            fail("user_" + "alice")
        except ValueError:
            if terminal:
                output.isatty = lambda: True  # type: ignore[method-assign]
                configure_logging("INFO", "api")
            structlog.get_logger().exception("failed", doing="a test")
            logging.getLogger("uvicorn.error").exception("Exception in ASGI application")
    text = output.getvalue()
    assert text.count("ValueError: a defect") == 4
    assert "user_alice" not in text
    assert len([each for each in text.splitlines() if each.startswith("{")]) == 2
