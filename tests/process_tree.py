"""Which processes a process has started, and which of them live."""

from pathlib import Path


def children_of(pid: int) -> list[int]:
    """Process ids of all descendants; none of a process that has just gone."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        direct = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []
    return direct + [pid for child in direct for pid in children_of(child)]


def lives(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
