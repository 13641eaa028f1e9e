"""What processes have used, from /proc: CPU seconds and memory."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """User and system CPU seconds of a process and its children, those it has waited for too; 0 where it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / _TICKS_PER_S + sum(cpu_s(int(child)) for child in children)


def rss_peak_mb(pid: int) -> float:
    """The largest resident set since the process began, in MB (10^6 bytes); 0 where it has ended."""
    return _status_kb(pid, "VmHWM") * 1024 / 1e6


def _status_kb(pid: int, field: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), 0)


@dataclass(frozen=True)
class Stretch:
    """CPU of named processes between `begin` and `seconds()`."""

    pids: Mapping[str, int]
    began: Mapping[str, float]

    @classmethod
    def begin(cls, pids: Mapping[str, int]) -> "Stretch":
        return cls(pids, {name: cpu_s(pid) for name, pid in pids.items()})

    def seconds(self) -> dict[str, float]:
        """name -> CPU seconds since the beginning; of a process that has ended, unknown: 0."""
        return {name: max(0.0, cpu_s(pid) - self.began[name]) for name, pid in self.pids.items()}
