"""What the page takes from others is there as it was published, with its licence; the page stays small and strict."""

import gzip
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[3] / "api" / "page"
VENDORED: list[dict[str, Any]] = json.loads((PAGE / "vendor" / "VERSIONS.json").read_text())
LICENSES = {"BSD-3-Clause": "Redistribution and use in source and binary forms", "OFL-1.1": "SIL OPEN FONT LICENSE"}
OURS = sorted(PAGE.glob("*.js"))
KIB = 1024
# gzipped bytes; what a page does not show it does not load
BUDGET_JS, BUDGET_VENDOR, BUDGET_CSS = 14 * KIB, 6 * KIB, 6 * KIB
_IMPORT = re.compile(r"""(?:from|import\(?)\s*['"]\./([\w./-]+)['"]""")


@pytest.mark.parametrize("package", VENDORED, ids=lambda package: package["package"])
def test_a_package_is_as_published_and_carries_its_licence(package):
    for path, published in package["files"].items():
        assert hashlib.sha256((PAGE / path).read_bytes()).hexdigest() == published["sha256"], path
    assert package["license_file"] in package["files"]
    assert LICENSES[package["license"]] in (PAGE / package["license_file"]).read_text()
    assert re.fullmatch(r"\d+\.\d+\.\d+", package["version"])


def test_every_file_of_others_is_listed():
    there = {
        path.relative_to(PAGE).as_posix() for folder in ("vendor", "fonts") for path in (PAGE / folder).rglob("*.*")
    }
    licences = {package["license_file"] for package in VENDORED}
    listed = {path for package in VENDORED for path in package["files"]}
    assert there | licences == listed | {"vendor/VERSIONS.json"}


@pytest.mark.parametrize("shown", ["boards.js", "content.js"])
def test_a_page_loads_little_javascript_of_ours(shown):
    loaded = _imports("page.js", shown)
    assert {"head.js", "stream.js", "words.js"} <= loaded
    assert sum(_gzipped(PAGE / name) for name in loaded) <= BUDGET_JS


def test_the_libraries_and_the_style_are_small():
    assert sum(_gzipped(path) for path in (PAGE / "vendor").rglob("*.js")) <= BUDGET_VENDOR
    assert _gzipped(PAGE / "page.css") <= BUDGET_CSS


@pytest.mark.parametrize("path", [*OURS, *sorted(PAGE.glob("*.html"))], ids=lambda path: path.name)
def test_nothing_is_written_that_the_policy_of_the_page_forbids(path):
    text = path.read_text()
    assert not re.search(r"\sstyle=|<style|\.style\b|\son[a-z]+=", text), "a style or a handler in the markup"
    assert not re.search(r"<script(?![^>]*\ssrc=)", text), "a script in the markup"
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|unsafe|\beval\b|new Function", text)
    assert not re.search(r"https?://|//cdn", text), "something from elsewhere"


def test_every_module_that_is_imported_is_there():
    for path in OURS:
        for name in _IMPORT.findall(path.read_text()):
            assert (PAGE / name).is_file(), f"{path.name} imports {name}"


def _imports(*names: str) -> set[str]:
    """These modules of ours and those they import at once."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found or "/" in name:
            continue
        found.add(name)
        waiting += re.findall(r"from './([\w./-]+)'", (PAGE / name).read_text())
    return found


def _gzipped(path: Path) -> int:
    return len(gzip.compress(path.read_bytes(), 9))
