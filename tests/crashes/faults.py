"""What goes wrong in a trial, drawn from its seed: the same seed makes the same plan."""

import random
from dataclasses import dataclass

DEPLOYMENTS = ("capture", "redis", "bigquery", "partner", "dead_letters")
SINKS = DEPLOYMENTS[1:]
SERVICES = ("kafka", "postgres", "redis")


@dataclass(frozen=True)
class Fault:
    """kind: as in KINDS; target: deployment or service; wait_moved: only once the target has moved since its start;
    after_s: then so much later; for_s: how long it lasts; kills: SIGKILLs that it sends"""

    kind: str
    target: str
    wait_moved: bool
    after_s: float
    for_s: float
    kills: int

    def __str__(self) -> str:
        return f"{self.kind} {self.target}"


@dataclass(frozen=True)
class Kind:
    """weight: how often it is drawn; kills: SIGKILLs that one sends; targets: what it may hit."""

    weight: float
    kills: int
    targets: tuple[str, ...]
    for_s: tuple[float, float] = (0.0, 0.0)


KINDS = {
    "kill": Kind(46, 1, DEPLOYMENTS),
    "kill_starting": Kind(12, 2, DEPLOYMENTS, (0.0, 0.6)),  # killed, and its successor while it starts
    "kill_directory": Kind(6, 1, SINKS),  # and its recovery directory is gone
    "kill_all": Kind(2, 5, ("all",)),
    "rescale": Kind(3, 1, SINKS),  # 1, 2, 3, 1 ... processes
    "freeze": Kind(6, 0, DEPLOYMENTS, (0.2, 3.0)),
    "zombie": Kind(6, 0, DEPLOYMENTS, (0.0, 0.5)),  # wakes up after its replacement has moved
    "service_kill": Kind(5, 1, SERVICES),
    "service_stop": Kind(2, 0, SERVICES),
    "service_freeze": Kind(3, 0, SERVICES, (0.2, 2.0)),
    "service_cut": Kind(3, 0, SERVICES),  # all its connections
    "answers_lost": Kind(5, 0, ("kafka", "redis"), (0.1, 1.0)),
    "answers_late": Kind(3, 0, SERVICES, (0.3, 2.0)),
    "redis_lost_second": Kind(3, 1, ("redis",), (0.5, 1.5)),
    "partner_kill": Kind(3, 1, ("partner",)),
    "partner_answers_lost": Kind(5, 0, ("partner",), (0.3, 2.0)),
    "partner_slow": Kind(3, 0, ("partner",), (0.5, 3.0)),
    "bigquery_faults": Kind(7, 0, ("bigquery",), (0.3, 5.0)),
}


def plan(seed: int, kills: int, only: tuple[str, ...] = ()) -> list[Fault]:
    """Faults until `kills` SIGKILLs are sent. only: kinds to draw from; default: all"""
    rng = random.Random(seed)
    kinds = {name: kind for name, kind in KINDS.items() if not only or name in only}
    if not any(kind.kills for kind in kinds.values()):
        raise ValueError(f"none of {', '.join(kinds)} kills: the plan would never end")
    faults: list[Fault] = []
    while sum(fault.kills for fault in faults) < kills:
        faults.append(_drawn(rng, kinds))
    return faults


def _drawn(rng: random.Random, kinds: dict[str, Kind]) -> Fault:
    name = rng.choices(list(kinds), [kind.weight for kind in kinds.values()])[0]
    kind = kinds[name]
    target, wait_moved, after_s = rng.choice(kind.targets), rng.random() < 0.5, rng.uniform(0.0, 0.5)
    return Fault(name, target, wait_moved, after_s, rng.uniform(*kind.for_s), kind.kills)
