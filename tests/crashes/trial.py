"""One trial: faults under load, then load stops, everything catches up, and the events are counted."""

import contextlib
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from demo.watcher import EVERY_S, Watcher
from sinks.redis_layout import Group
from tests.crashes.faults import DEPLOYMENTS, Fault
from tests.crashes.gauges import Gauges
from tests.crashes.installation import PARTITIONS, Deployment, Installation
from tests.crashes.load import Load
from tests.crashes.stage import Stage
from tests.crashes.supervisor import Supervisor
from tests.crashes.verdict import Verdict, judge
from tests.fakes.bigquery_write import Fault as AppendFault
from tests.fakes.capture import ids_in_table

MOVED_S = 6.0  # so long a fault waits for its target to be at work; then it happens all the same
CATCH_UP_S = 90.0
ZOMBIES_S = 45.0
STOP_S = 35.0


@dataclass
class Outcome:
    """What became of a trial; `findings` is empty when nothing was lost, doubled or wrong."""

    seed: int
    faults: dict[str, int]
    kills: dict[str, int]
    verdict: Verdict
    recovered: dict[str, list[float]]
    ended: dict[str, int]
    seconds: float
    catch_up_s: float
    board_polls: int
    findings: list[str] = field(default_factory=list)


class Trial:
    """sinks: what is deployed; without: protections switched off, by deployment."""

    def __init__(
        self,
        stage: Stage,
        seed: int,
        *,
        rate: int = 200,
        sinks: Sequence[str] = DEPLOYMENTS,
        without: dict[str, Sequence[str]] | None = None,
        settings: dict[str, str] | None = None,
        catch_up_s: float = CATCH_UP_S,
        poison: float | None = None,
        watch_s: float = EVERY_S,
    ) -> None:
        self._catch_up_s, self._poison, self._watch_s = catch_up_s, poison, watch_s
        self.seed, self.stage, self._sinks = seed, stage, tuple(sinks)
        self._rng = random.Random(f"faults of {seed}")
        group = f"c{seed}x{int(time.time() * 1000) % 10**9}"
        work = stage.root / "trials" / group
        self.installation = Installation(stage, group, work, without or {}, settings or {})
        self._rate = rate
        self.findings: list[str] = []
        self._did: Counter[str] = Counter()

    @property
    def logs(self) -> Path:
        return self.installation.work

    def run(self, plan: Sequence[Fault]) -> Outcome:
        """All of it; everything of the trial is gone afterwards, but for the logs."""
        self._begun = time.monotonic()
        try:
            self.open()
            for fault in plan:
                self.inject(fault)
            return self.finish()
        finally:
            self.close()

    def open(self) -> None:
        """Start everything, and wait until every deployment has moved."""
        self._begun = time.monotonic()
        self.installation.open()
        pipeline = self.installation.pipeline
        self.gauges = Gauges(
            self.stage.properties,
            self.stage.redis_url(),
            pipeline.group,
            pipeline.topic,
            PARTITIONS,
            self.installation.bigquery.landed,
        )
        layout = Group(pipeline.group, pipeline.topic, 10)
        client = redis.Redis.from_url(self.stage.redis_url(), socket_timeout=2)
        self.watcher = Watcher(client, layout, PARTITIONS, self._watch_s)
        self.load = Load(pipeline.postgres, pipeline.contents, self._rate, self.seed, self._poison)
        self.supervisor = Supervisor(self.installation, self.gauges)
        self.installation.deploy(self._sinks)
        for thread in (self.gauges, self.watcher, self.load):
            thread.start()
        for deployment in self.installation.deployments:
            if not self.supervisor.wait(lambda d=deployment: self.supervisor.moved(d), 60):
                raise RuntimeError(f"{deployment.name} does not move: see {self.logs}")

    def inject(self, fault: Fault) -> None:
        """One fault, when its target is at work (or not), and a little later."""
        targets = [d for d in self.installation.deployments if d.sink == fault.target]
        if fault.wait_moved and targets:
            self.supervisor.wait(lambda: self.supervisor.moved(targets[0]), MOVED_S)
        self.supervisor.pause(fault.after_s)
        if fault.target in self.stage.servers:
            self.supervisor.wait(lambda: self.stage.ready(fault.target), 60)
        self._did[fault.kind] += 1
        chosen = self._rng.choice(targets) if targets else None
        getattr(self, f"_{fault.kind}")(fault, chosen)

    def finish(self) -> Outcome:
        """Heal everything, stop the load, let everything catch up, compare, and stop cleanly."""
        supervisor = self.supervisor
        supervisor.wait(self._services_ready, 60)
        supervisor.wait(lambda: all(each.woken_at is not None for each in supervisor.zombies), 10)
        supervisor.hurry()
        self._heal()
        supervisor.wait(supervisor.buried, ZOMBIES_S)  # a zombie ends at its next write: under load
        self.findings += supervisor.bury()
        self.load.stop()
        began = time.monotonic()
        if not supervisor.wait(lambda: not self.behind(), self._catch_up_s):
            self.findings.append(f"not caught up after {self._catch_up_s:.0f} s: {self.behind()}")
        caught_up_s = time.monotonic() - began
        self.watcher.stop()
        verdict = judge(self.installation)
        self.findings += [*verdict.findings, *self._went_back()]
        self._stop_cleanly()
        return Outcome(
            self.seed,
            dict(self._did),
            dict(supervisor.kills),
            verdict,
            supervisor.recovered,
            dict(supervisor.ended),
            round(time.monotonic() - self._begun, 1),
            round(caught_up_s, 1),
            self.watcher.polls,
            self.findings,
        )

    def close(self) -> None:
        for thread in (getattr(self, name, None) for name in ("load", "watcher", "gauges")):
            if thread is not None:
                thread.stop()
        if hasattr(self, "supervisor"):
            self.supervisor.bury()
        for server in self.stage.servers.values():
            with contextlib.suppress(ProcessLookupError):
                server.resume()
        if hasattr(self, "supervisor"):
            self.supervisor.wait(self._services_ready, 60)
        self.installation.close()

    # Faults of processes

    def _kill(self, fault: Fault, deployment: Deployment) -> None:
        self.supervisor.kill(deployment)

    def _kill_starting(self, fault: Fault, deployment: Deployment) -> None:
        self.supervisor.kill(deployment)
        self.supervisor.tick()
        self.supervisor.pause(fault.for_s)
        self.supervisor.kill(deployment)

    def _kill_directory(self, fault: Fault, deployment: Deployment) -> None:
        self.supervisor.kill(deployment)
        self.installation.forget_recovery(deployment)

    def _kill_all(self, fault: Fault, deployment: None) -> None:
        for each in self.installation.deployments:
            self.supervisor.kill(each)

    def _rescale(self, fault: Fault, deployment: Deployment) -> None:
        self.supervisor.rescale(fault.target)

    def _freeze(self, fault: Fault, deployment: Deployment) -> None:
        process = deployment.process
        if process is not None:
            process.signal(signal.SIGSTOP)
            self.supervisor.later(fault.for_s, lambda: process.signal(signal.SIGCONT))

    def _zombie(self, fault: Fault, deployment: Deployment) -> None:
        self.supervisor.replace(deployment, fault.for_s)

    # Faults of services

    def _service_kill(self, fault: Fault, deployment: None) -> None:
        self.supervisor.kills[fault.target] += 1
        self.stage.kill(fault.target)

    def _service_stop(self, fault: Fault, deployment: None) -> None:
        self.stage.restart(fault.target)

    def _service_freeze(self, fault: Fault, deployment: None) -> None:
        server = self.stage.servers[fault.target]
        pid = server.pid
        server.pause()
        self.supervisor.later(fault.for_s, lambda: server.resume() if server.pid == pid else None)

    def _service_cut(self, fault: Fault, deployment: None) -> None:
        self.stage.proxies[fault.target].cut()

    def _answers_lost(self, fault: Fault, deployment: None) -> None:
        proxy = self.stage.proxies[fault.target]
        proxy.lose()
        self.supervisor.later(fault.for_s, proxy.heal)

    def _answers_late(self, fault: Fault, deployment: None) -> None:
        proxy = self.stage.proxies[fault.target]
        proxy.delay_s = fault.for_s / 4
        self.supervisor.later(fault.for_s, proxy.heal)

    def _redis_lost_second(self, fault: Fault, deployment: Deployment) -> None:
        self.supervisor.kills["redis-server"] += 1
        with self.watcher.look_away():
            self.stage.kill("redis", lost_s=fault.for_s)
            self.supervisor.wait(lambda: self.stage.ready("redis"), 30)
            self.watcher.forget()

    def _partner_kill(self, fault: Fault, deployment: Deployment) -> None:
        self.supervisor.kills["partner-receiver"] += 1
        self.installation.receiver.kill()

    def _partner_answers_lost(self, fault: Fault, deployment: Deployment) -> None:
        """It takes the events, and nobody hears of it."""
        self.installation.behave(status=503, times=self._rng.randint(1, 3), applied=True)

    def _partner_slow(self, fault: Fault, deployment: Deployment) -> None:
        """Beyond the timeout of two seconds nobody hears its answer either."""
        self.installation.behave(delay_s=fault.for_s, times=self._rng.randint(1, 3))

    def _bigquery_faults(self, fault: Fault, deployment: Deployment) -> None:
        made: dict[int, AppendFault] = {}
        for number in self._rng.sample(range(6), self._rng.randint(1, 3)):
            made[number] = self._rng.choice(
                [
                    AppendFault(hold=True),
                    AppendFault(drop_ack=True),
                    AppendFault(cut=True),
                    AppendFault(error=(14, None, "told to fail")),
                ]
            )
        self.installation.bigquery.expect(made)
        self.supervisor.later(fault.for_s, lambda: [each.gate.set() for each in made.values()] and None)

    # The end

    def _services_ready(self) -> bool:
        return all(self.stage.ready(name) for name in self.stage.servers)

    def _heal(self) -> None:
        for proxy in self.stage.proxies.values():
            proxy.heal()
        for deployment in self.installation.deployments:
            if deployment.process is not None:
                deployment.process.signal(signal.SIGCONT)
        self.installation.behave()
        self.installation.bigquery.release()

    def behind(self) -> str:
        """Who has not reached the end, in words."""
        pipeline = self.installation.pipeline
        ends, now = self.gauges.by["capture"], time.monotonic() - 2.0
        if self.gauges.at["capture"] < now:
            return "nobody knows: Kafka does not say where the topic ends"
        if self._rows_in_kafka() < len(ids_in_table(pipeline.postgres)):
            return f"capture: Kafka ends at {ends}"
        for deployment in self.installation.deployments:
            if deployment.sink in ("capture", "bigquery"):
                continue
            found = self.gauges.read(deployment.sink, deployment.numbers, now)
            at = [_offset(each) for each in found or []]
            if at != [ends[number] for number in deployment.numbers]:
                return f"{deployment.name} at {at} of {ends}"
        if any(d.sink == "bigquery" for d in self.installation.deployments):
            at = pipeline.sink_positions("bigquery")
            if at != ends:
                return f"bigquery at {at} of {ends}"
        return ""

    def _rows_in_kafka(self) -> int:
        """Records of the topic; read anew only where its end has moved."""
        ends = dict(self.gauges.by["capture"])
        if getattr(self, "_counted_at", None) != ends:
            self._counted = len(self.installation.pipeline.records())
            self._counted_at = ends
        return self._counted

    def _went_back(self) -> list[str]:
        back = self.watcher.went_back
        return [f"boards: {len(back)} numbers of a window went back, first {back[0]}"] if back else []

    def _stop_cleanly(self) -> None:
        """SIGTERM: every process ends with 0 within 30 s."""
        self.supervisor.restarting = False
        running = [(d, d.process) for d in self.installation.deployments if d.process is not None]
        for _, process in running:
            process.signal(signal.SIGTERM)
        for deployment, process in running:
            status = self.stage.processes.status(process, STOP_S)
            if status is None:
                self.findings.append(f"{deployment.name} did not stop within {STOP_S:.0f} s")
            elif status != 0:
                self.findings.append(f"{deployment.name} stopped with {status}: {process.said()[-300:]}")


def _offset(value: Any) -> int:
    return int(value[0] if isinstance(value, tuple) else value or -1)
