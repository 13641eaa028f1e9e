"""The README says what the code does: its diagram, its commands, the tests it names."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_diagram_is_the_one_that_bytewax_prints() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "bytewax.visualize", "dataflows.engagement:graph()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert printed in README


@pytest.mark.parametrize("path", ["README.md", *(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md"))])
def test_every_file_that_is_named_is_there(path: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:tests|sources|sinks|engagement|dataflows|sql|docs|operations)/[\w/.]+\.\w+)`", text))
    assert path != "README.md" or len(named) > 8
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_every_make_target_it_names_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"make (demo|test|check|install|clean)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
