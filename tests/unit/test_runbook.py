"""The runbook knows every sentence with which a flow stops, and no sentence that is gone."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
RUNBOOK = (ROOT / "docs/runbook.md").read_text(encoding="utf-8")
STOPS = {"FlowStopped", "Fenced", "PositionGap", "LostWrites"}


def sentences() -> Iterator[tuple[str, str]]:
    """(where, sentence with ... for what is filled in) of every stop that is raised with its words."""
    for folder in ("sources", "sinks", "dataflows"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                match node:
                    case ast.Call(func=ast.Name(id=name), args=[words, *_]) if name in STOPS:
                        text = sentence(words)
                        if text is not None:
                            yield f"{path.relative_to(ROOT)}:{node.lineno}", text


def sentence(words: ast.expr) -> str | None:
    match words:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(str(part.value) if isinstance(part, ast.Constant) else "..." for part in parts)
    return None


def fragments() -> set[str]:
    """What the first column of the tables quotes."""
    rows = [line.split("|")[1] for line in RUNBOOK.splitlines() if line.startswith("| `")]
    return {fragment for row in rows for fragment in re.findall(r"`([^`]+)`", row)}


def test_the_runbook_knows_every_sentence() -> None:
    unknown = [f"{where}: {text}" for where, text in sentences() if not any(each in text for each in fragments())]
    assert not unknown, "docs/runbook.md does not say what to do about:\n" + "\n".join(unknown)


def test_the_runbook_quotes_no_sentence_that_is_gone() -> None:
    texts = [text for _, text in sentences()]
    assert sorted(each for each in fragments() if not any(each in text for text in texts)) == []
