"""Where things live: the rules of the layout, each with its written waivers. A waiver that nothing needs fails too."""

import ast
import importlib
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from settings import WITHOUT_EFFECT, Settings

ROOT = Path(__file__).parent.parent
FOLDERS = ("engagement", "sources", "sinks", "dataflows", "api", "operations", "generator", "demo")
MODULES = ("settings", "metrics", "logs")
OURS = {*FOLDERS, *MODULES}

# Folder -> what of ours it may import, besides itself.
MAY_IMPORT = {
    "engagement": set[str](),
    "sources": {"metrics"},
    "sinks": {"metrics", "sources.positions"},
    "dataflows": {"engagement", "sources", "sinks", "settings", "metrics", "logs"},
    "api": {"engagement", "sources", "sinks", "settings", "metrics", "logs"},
    "operations": {"engagement", "sources", "sinks", "settings", "metrics"},
    "generator": {"settings"},
    "demo": OURS,  # it starts and shows everything, and nothing needs it
}
# (file, module it imports) -> why
IMPORTS_WAIVED: dict[tuple[str, str], str] = {}

# A second family of jobs brings its own fields: sources and sinks carry any of them, and name none.
EVENT_FIELDS = {
    *("event_id", "event_type", "event_ts", "event_ts_us", "user_id", "device", "raw_payload", "duration_ms"),
    *("content_id", "content_slug", "content_title", "content_type", "content_length_seconds", "length_seconds"),
    *("engagement_seconds", "engagement_percentage", "processed_at", "anomalies"),
}
HEADER = (
    "here it is the name of a header of dead letters, which any family of jobs has: it keeps the id through a replay"
)
# (file, field) -> why
FIELDS_WAIVED: dict[tuple[str, str], str] = {
    ("sinks/fenced_commit.py", "event_id"): HEADER,
    ("sinks/dead_letters.py", "event_id"): HEADER,
    ("sinks/bigquery_writer.py", "event_id"): HEADER,
    ("sinks/partner.py", "event_id"): HEADER,
}

# Module -> the distribution that brings it, where the two are not called the same.
BROUGHT_BY = {
    "dotenv": "python-dotenv",
    "google.api_core": "google-api-core",
    "google.auth": "google-auth",
    "google.cloud.bigquery": "google-cloud-bigquery",
    "google.cloud.bigquery_storage_v1": "google-cloud-bigquery-storage",
    "google.rpc": "googleapis-common-protos",
    "grpc": "grpcio",
    "grpc_status": "grpcio-status",
}
# Dependency that no file imports -> why it is there
NOT_IMPORTED = {
    "httptools": "uvicorn finds it and parses with it",
    "uvloop": "uvicorn finds it and runs on it",
}

NO_NOUN = {"utils", "util", "common", "helpers", "helper", "manager", "misc", "shared", "base"}


def modules(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def listed(pairs: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{file}: {name}" for file, name in sorted(pairs))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(path: Path) -> Iterator[str]:
    """Full names of the modules of ours that a file imports, wherever in it; `from a import b` is a and a.b."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in OURS)


def allowed(name: str, folder: str) -> bool:
    return any(name == rule or name.startswith(f"{rule}.") for rule in {folder, *MAY_IMPORT[folder]})


def test_imports_run_one_way() -> None:
    found = {
        (name_of(path), name)
        for folder in FOLDERS
        for path in modules(folder)
        for name in imported(path)
        if not allowed(name, folder)
    }
    unexplained = {(file, name) for file, name in found if not waiver_of(file, name)}
    assert not unexplained, listed(unexplained)
    stale = {waived for waived in IMPORTS_WAIVED if not any(waiver_of(*pair) == waived for pair in found)}
    assert not stale, f"waivers that nothing needs: {listed(stale)}"


def waiver_of(file: str, name: str) -> tuple[str, str] | None:
    return next((w for w in IMPORTS_WAIVED if w[0] == file and (name == w[1] or name.startswith(f"{w[1]}."))), None)


def test_settings_metrics_and_logs_import_nothing_of_ours() -> None:
    assert [name for module in MODULES for name in imported(ROOT / f"{module}.py")] == []


def distributions(path: Path) -> set[str]:
    """What a file needs from elsewhere, by the name under which it is installed."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                modules.update(alias.name for alias in names)
            case ast.ImportFrom(module=str(module), level=0, names=names):
                modules.update(f"{module}.{alias.name}" for alias in names)
    ours = OURS | sys.stdlib_module_names
    return {distribution(module) for module in modules if module.split(".")[0] not in ours}


def distribution(module: str) -> str:
    brought = next((name for begin, name in BROUGHT_BY.items() if f"{module}.".startswith(f"{begin}.")), None)
    return brought or module.split(".")[0].replace("_", "-")


def test_what_is_imported_is_a_dependency_and_the_other_way_round() -> None:
    """Also what another dependency happens to bring: it may stop doing so."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    declared = {re.split(r"[\[<>=]", each)[0] for each in project["project"]["dependencies"]}
    embedded = {re.split(r"[\[<>=]", each)[0] for each in project["dependency-groups"]["embedded"]}
    places = [*modules(*FOLDERS), *(ROOT / f"{module}.py" for module in MODULES)]
    # The emulator has an environment of its own (demo/bigquery_emulator/pyproject.toml).
    needed = {each for path in places if path.parent.name != "bigquery_emulator" for each in distributions(path)}
    assert needed - declared - embedded == set()
    assert declared - needed == NOT_IMPORTED.keys()


def named(path: Path) -> set[str]:
    """Event fields among a file's identifiers and the words of its strings; docstrings may speak of anything."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documentation = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    }
    words: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if id(node) not in documentation:
                words.update(re.findall(r"\w+", text))
            case ast.Constant(value=bytes(raw)):
                words.update(re.findall(r"\w+", raw.decode("utf-8", "replace")))
            case ast.Name(id=word) | ast.Attribute(attr=word) | ast.arg(arg=word):
                words.add(word)
            case ast.keyword(arg=str(word)):
                words.add(word)
            case ast.FunctionDef(name=word) | ast.ClassDef(name=word):
                words.add(word)
    return words & EVENT_FIELDS


def test_sources_and_sinks_name_no_field_of_an_event() -> None:
    found = {(name_of(path), field) for path in modules("sources", "sinks") for field in named(path)}
    unexplained, stale = found - FIELDS_WAIVED.keys(), FIELDS_WAIVED.keys() - found
    assert not unexplained, listed(unexplained)
    assert not stale, f"waivers that nothing needs: {listed(stale)}"


def test_every_module_is_a_noun() -> None:
    places = [*modules(*FOLDERS), *(ROOT / f"{module}.py" for module in MODULES)]
    parts = {part for path in places for part in (*path.relative_to(ROOT).parent.parts, path.stem)}
    assert parts & NO_NOUN == set()


def test_jobs_have_a_flow_and_connect_to_nothing_when_imported() -> None:
    """A job is a module of dataflows/ that says `flow`; what it is made of lies beside it without one."""
    jobs = [path for path in modules("dataflows") if defines(path, "flow")]
    for path in jobs:
        assert hasattr(importlib.import_module(f"dataflows.{path.stem}"), "flow")
    for name in ("engagement", "cdc_capture", "backfill"):
        if (ROOT / f"dataflows/{name}.py").exists():
            assert ROOT / f"dataflows/{name}.py" in jobs


def defines(path: Path, name: str) -> bool:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        match node:
            case ast.FunctionDef(name=found) if found == name:
                return True
            case ast.Assign(targets=[ast.Name(id=found)]) if found == name:
                return True
    return False


def test_the_root_is_no_package() -> None:
    """With it one job would load under two names (dataflows.x and <folder>.dataflows.x)."""
    assert not (ROOT / "__init__.py").exists()
    assert (ROOT / "dataflows/__init__.py").exists()


def test_tests_mirror_the_folders() -> None:
    folders = {path.name for kind in ("unit", "integration") for path in (ROOT / "tests" / kind).glob("*/")}
    assert folders - {"__pycache__"} <= {*FOLDERS, "deploy"}


def test_sql_lives_in_sql_files_that_are_numbered() -> None:
    for path in (ROOT / "sql/postgres").glob("*.sql"):
        assert re.fullmatch(r"\d{4}_\w+\.sql", path.name)


def test_ci_runs_what_the_readme_names() -> None:
    commands = (ROOT / ".ci/run").read_text()
    assert "\nmake check\n" in commands
    assert re.search(r"^exec make .*\btest ARGS=", commands, re.MULTILINE)


def readme() -> str | None:
    path = ROOT / "README.md"
    return path.read_text(encoding="utf-8") if path.exists() else None


def setting_names() -> list[str]:
    names = []
    for name, field in Settings.model_fields.items():
        alias = field.validation_alias
        names += [str(choice) for choice in getattr(alias, "choices", [name.upper()])]
    names.remove("KAFKA_CONFIG")
    return [*names, "KAFKA_CONFIG_", *WITHOUT_EFFECT]


@pytest.mark.parametrize("name", setting_names())
def test_the_readme_names_every_setting(name: str) -> None:
    text = readme()
    assert text is None or re.search(rf"\b{name}", text), f"README.md does not say what {name} is"


def test_the_readme_names_no_setting_that_is_not_there() -> None:
    text = readme() or ""
    _, _, section = text.partition("\n## Settings")
    section = section.partition("\n## ")[0]
    known = {*setting_names(), *(f"{name}_FILE" for name in setting_names()), "NAME_FILE"}
    rows = [row.split("|")[1] for row in section.splitlines() if row.startswith("|")]
    said = {word for row in rows for word in re.findall(r"`([A-Z][A-Z0-9_]+)`", row)}
    assert {name for name in said if not name.startswith("KAFKA_CONFIG_")} <= known


def test_files_are_short_enough_to_read() -> None:
    long = {name_of(path): n for path in modules(*FOLDERS) if (n := len(path.read_text().splitlines())) > 500}
    assert not long
