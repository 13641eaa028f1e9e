"""What the processes said last, also those that have fallen silent since: by sink, and for the capture."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from api.stages import CAPTURE

FORGOTTEN_S = 600.0  # a process that has been silent for so long was replaced by one of another name
SPEAKS_S = 5.0  # each speaks every second


@dataclass(frozen=True, slots=True)
class Heard:
    """The last words of a process. at: when it spoke, seconds since 1970, by our clock."""

    name: str
    at: float
    values: Mapping[str, Any]

    @property
    def waiting(self) -> str:
        """What it waits for besides its sinks; "" for nothing."""
        return str(self.values.get("process", {}).get("waiting") or "")

    @property
    def sinks(self) -> Mapping[str, Mapping[str, Any]]:
        found: Mapping[str, Mapping[str, Any]] = self.values.get("sinks", {})
        return found

    @property
    def partitions(self) -> list[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = self.values.get("partitions", [])
        return found


@dataclass
class Processes:
    """Remembers who spoke: `read` what Redis holds once a second.

    A process that speaks no more cannot be heard while Redis is away either: silence is only counted while Redis
    answers."""

    began: float
    _heard: dict[str, Heard] = field(default_factory=dict)
    _said: dict[str, float] = field(default_factory=dict)  # name -> the process's own clock, when it spoke
    _last_read: float | None = None

    def read(self, status: Mapping[str, Mapping[str, str]], at: float) -> None:
        """status: name -> field -> JSON, as sinks.redis_status.StatusBoard reads it."""
        if self._last_read is not None and at - self._last_read > SPEAKS_S:
            self._forgive(at - self._last_read)
        self._last_read = at
        for name, fields in status.items():
            values = {key: json.loads(value) for key, value in fields.items()}
            spoke = float(values.get("process", {}).get("now", at))
            if self._said.get(name) != spoke:
                self._said[name] = spoke
                self._heard[name] = Heard(name, at, values)
        for name, heard in list(self._heard.items()):
            if at - heard.at > FORGOTTEN_S:
                del self._heard[name]

    def _forgive(self, seconds: float) -> None:
        """Nobody could be heard meanwhile."""
        self.began += seconds
        self._heard = {name: Heard(name, each.at + seconds, each.values) for name, each in self._heard.items()}

    def living(self, now: float) -> dict[str, Mapping[str, Any]]:
        """What those say that still speak."""
        return {name: each.values for name, each in sorted(self._heard.items()) if now - each.at < 3 * SPEAKS_S}

    def with_sink(self, sink: str) -> list[Heard]:
        return [each for each in self._heard.values() if sink in each.sinks]

    def captures(self) -> list[Heard]:
        return [each for each in self._heard.values() if each.name.split(".")[0] == CAPTURE]

    def sinks(self) -> set[str]:
        """Those that any process has."""
        return {sink for each in self._heard.values() for sink in each.sinks}

    def silent_s(self, among: Iterable[Heard], now: float) -> float:
        """Seconds since one of these spoke; since we listen where none ever did."""
        if self._last_read is not None:
            now = min(now, self._last_read + SPEAKS_S)
        return max(0.0, now - max((each.at for each in among), default=self.began))
