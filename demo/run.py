"""One run of the demo: systems, tables, processes, the view, and at the end the stop or the audit."""

import fcntl
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import stamina
from rich.console import Console
from rich.live import Live

from demo import jobs, view
from demo.board import layout, rolling_board
from demo.facts import Facts, Observer
from demo.kill import EVERY_S, Killer, single_keys
from demo.positions import Positions, captured, last_write
from demo.services import children
from demo.services.kafka import aot_cache
from demo.services.places import API_PORT, free_port, is_free
from demo.supervisor import Job, Supervisor
from demo.systems import Systems, run_folder
from demo.verdict import everything_is_there
from demo.watcher import Watcher
from settings import Settings
from sinks.redis_client import connect
from sinks.redis_status import StatusBoard

ROOT = Path(__file__).parent.parent
PAINT_S, LINE_S = 0.5, 2.0  # a terminal; anything else
SETTLE_S = 30.0  # after the last row everything must be everywhere within so long
PROCESSES_STOP_S, SERVERS_STOP_S = 1.5, 1.2  # Ctrl-C ends everything within 3 s
FIRST_NUMBER_S = 30.0  # whatever else there is to start waits for the first number, but not longer
KILLS_SHOWN = 4
TRAIN_AFTER_S = 60.0  # a quiet moment for what makes the next start faster


@dataclass(frozen=True)
class Options:
    """What was asked for. seconds None: until stopped; rate: rows a second; poison: share to be rejected;
    kill: processes and systems may be killed, by keys, and by a timer every `kill_s` (None: by keys alone)"""

    sinks: tuple[str, ...]
    seconds: float | None
    rate: float
    poison: float
    kill: bool = False
    kill_s: float | None = None


class Refused(Exception):
    """The demo cannot run; the text says why and what to do."""


@dataclass
class Demo:
    """Call `run` once, from the main thread."""

    options: Options
    console: Console
    folder: Path = ROOT / ".demo"
    env: dict[str, str] = field(default_factory=lambda: dict(os.environ))

    def run(self) -> int:
        """Exit code: 0, or 1 when the audit found a difference or something could not start."""
        self._begun = time.monotonic()
        self._moving_since: float | None = None
        self._activity = ""
        self._training: children.Child | None = None
        self._observer: Observer | None = None
        self._killer: Killer | None = None
        self._watcher: Watcher | None = None
        try:
            self._prepare()
            self._start()
            return self._live()
        except (Refused, children.ServiceFailed) as error:
            self.console.print(str(error), style="red", highlight=False, markup=False, soft_wrap=True)
            return 1
        except KeyboardInterrupt:
            self.console.print("stopping", style="dim")
            return 0

    def stop(self) -> None:
        """End every process, within 3 seconds; what is killed loses nothing, it begins at its stored position."""
        if self._observer:
            self._observer.stop()
        processes = self._supervisor.running() if hasattr(self, "_supervisor") else []
        processes += [self._training] if self._training else []
        children.stop_in_order([processes], PROCESSES_STOP_S)
        if hasattr(self, "_systems"):
            servers = [server.child for server in self._systems.servers.values() if server.child]
            children.stop_in_order([servers], SERVERS_STOP_S)

    # Start

    def _prepare(self) -> None:
        """The folder, the lock on it, the logs, the environment of the processes."""
        self.folder = run_folder(self.folder, self.env)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock()
        self.logs = self.folder / "logs"
        previous = self.folder / "logs.previous"
        if self.logs.exists():
            shutil.rmtree(previous, ignore_errors=True)
            self.logs.rename(previous)
        self.logs.mkdir()
        self.env["PYTHONPATH"] = str(ROOT)
        self.env["PYTHONUNBUFFERED"] = "1"
        self.env["API_PORT"] = str(API_PORT if is_free(API_PORT) else free_port())
        self._systems = Systems(self.folder, self.logs, self.env)
        self._supervisor = Supervisor(self.logs, cwd=self.folder)  # not the checkout: its .env is not the demo's
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="demo")
        self._say(f"logs are in {self.logs}")
        for system in sorted(self._systems.named):
            self._say(f"{system}: the one that the environment names")

    def _lock(self) -> None:
        """One demo per folder; children hold the lock too, so that nothing of the last one is still running."""
        lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        deadline = time.monotonic() + 10
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise Refused(f"Another demo is running on {self.folder}: end it first (Ctrl-C).") from None
                if not self._activity:
                    self._activity = "waiting for the processes of the last demo to end"
                    self._say(self._activity)
                time.sleep(0.1)
        self._activity = ""
        children.held_open.add(lock)

    def _start(self) -> None:
        """What the first number needs: three systems, the tables, the topics, capture, boards, events."""
        self._systems.start(["kafka", "postgres", "redis"], self._say)
        if "partner" in self.options.sinks and "partner" not in self._systems.named:
            self._partner_port = free_port()
            self.env["EXTERNAL_API_URL"] = f"http://127.0.0.1:{self._partner_port}/events"
        self.env.setdefault("EXTERNAL_API_TOKEN", "demo")
        first = [sink for sink in self.options.sinks if sink != "bigquery"]
        self.settings = Settings.from_env(env={**self.env, "SINKS": ",".join(first)})
        self._tables()
        self._provision(first)
        self._say(f"capture, boards and events are starting; the page will be at {self._url()}/")
        self._supervisor.add([jobs.capture(self.env)])
        self._supervisor.add([self._flow("redis"), jobs.generator(self.env, self.options.rate, self.options.poison)])
        self._generating_since = time.monotonic()
        self._observe()

    def _tables(self) -> None:
        """Create tables and sample contents where they are missing."""
        with psycopg.connect(self.settings.postgres) as connection:
            for script in sorted((ROOT / "sql" / "postgres").glob("[0-9]*.sql")):
                connection.execute(script.read_text(encoding="utf-8").encode())

    def _provision(self, sinks: list[str]) -> None:
        """Topics, publication, first positions; for BigQuery its tables."""
        command = [sys.executable, "-m", "operations.provision"]
        env = {**self.env, "SINKS": ",".join(sinks)}
        # Idempotent, so worth a second try: a broker that has just made a topic may refuse it for a moment.
        for attempt in stamina.retry_context(on=children.ServiceFailed, attempts=3, wait_initial=0.5, wait_max=1.0):
            with attempt:
                children.run("operations.provision", command, log=self.logs / "provision.log", env=env, cwd=self.folder)
        self._say(f"provisioned for {', '.join(sinks)}")

    def _flow(self, sink: str) -> Job:
        return jobs.flow(sink, self.env, self.folder / "recovery", self.logs)

    def _observe(self) -> None:
        self._redis = connect(self.settings.redis, self.settings.redis_cluster_nodes)
        self._positions = self._new_positions()
        status = StatusBoard(self._redis, self.settings.kafka_consumer_group)
        board = rolling_board(self._redis, self.settings)
        dsn, slot = self.settings.postgres, self.settings.cdc_slot
        log = self.logs / "view.log"
        self._observer = Observer(self._positions, status, board, dsn, slot, self.options.sinks, log)
        self._observer.start()
        if self.options.kill:
            client = connect(self.settings.redis, self.settings.redis_cluster_nodes)
            self._watcher = Watcher(client, layout(self.settings), self.settings.kafka_topic_partitions)
            self._watcher.start()

    def _new_positions(self) -> Positions:
        """For one thread."""
        topic, group = self.settings.kafka_topic_engagement_events, self.settings.kafka_consumer_group
        return Positions(self.settings.kafka, topic, group, self.options.sinks, self._redis)

    def _others(self) -> Iterator[Callable[[], bool]]:
        """Everything else, step by step: each step yields what must be true before the next.

        Runs on the main thread, which alone may spawn; what takes long runs in the pool meanwhile."""
        yield lambda: self._seen().moving or self._age() > FIRST_NUMBER_S
        self._moving_since = time.monotonic()
        self._supervisor.add([jobs.api(self.env)])
        if "dead_letters" in self.options.sinks:
            self._supervisor.add([self._flow("dead_letters")])
        if "partner" in self.options.sinks:
            if "partner" not in self._systems.named:
                store = self.folder / "partner.sqlite3"
                self._supervisor.add([jobs.partner_receiver(self.env, self._partner_port, store)])
            self._supervisor.add([self._flow("partner")])
        if "bigquery" in self.options.sinks:
            server = self._systems.servers.get("bigquery")
            if server:
                self._activity = "starting the BigQuery emulator"
                yield self._done(self._pool.submit(server.prepare, self._tell))
                server.spawn()
                yield self._done(self._pool.submit(server.wait_ready))
                self._systems.publish()
            self._activity = "creating BigQuery's tables"
            yield self._done(self._pool.submit(self._provision, ["bigquery"]))
            self._supervisor.add([self._flow("bigquery")])
        self._activity = ""
        yield lambda: self._age() > TRAIN_AFTER_S and self.options.seconds is None
        if not aot_cache().exists() and "kafka" not in self._systems.named:
            train = [sys.executable, "-m", "demo.services.training", str(self.folder / "training")]
            self._training = children.spawn("training", train, log=self.logs / "training.log", env=self.env)

    def _done(self, future: "Future[None]") -> Callable[[], bool]:
        """True when it has ended; raises what it raised."""

        def ended() -> bool:
            if future.done():
                future.result()
            return future.done()

        return ended

    # Live

    def _live(self) -> int:
        others = self._others()
        ready = next(others, None)
        painted = 0.0
        terminal = self.console.is_terminal
        shown = Live(console=self.console, auto_refresh=False) if terminal else nullcontext()
        with shown as live, single_keys() if self.options.kill else nullcontext():
            while not self._over():
                self._systems.check(self._killer.coming_back if self._killer else ())
                self._supervisor.tick()
                if ready is not None and ready():
                    ready = next(others, None)
                if self.options.kill and self._killer is None and self._moving_since is not None:
                    every_s = self.options.kill_s if terminal else self.options.kill_s or EVERY_S
                    self._killer = Killer(self._supervisor, self._systems, self._new_positions(), every_s)
                if self._killer:
                    self._killer.tick(self._left_s())
                if time.monotonic() - painted >= (PAINT_S if live else LINE_S):
                    painted = time.monotonic()
                    self._paint(live)
                time.sleep(0.05)
        return self._finish(others, ready)

    def _left_s(self) -> float | None:
        """Of the asked seconds; None: there is no end, or it has not begun."""
        if self.options.seconds is None or self._moving_since is None:
            return None
        return self.options.seconds - (time.monotonic() - self._moving_since)

    def _over(self) -> bool:
        """Whether the asked seconds have passed since the first number."""
        left_s = self._left_s()
        return left_s is not None and left_s < 0

    def _paint(self, live: Live | None) -> None:
        failed = self._failed()
        if live:
            footer = f"Ctrl-C ends it · the page: {self._url()}/ · logs: {self.logs}"
            footer += f" · {self._activity}" if self._activity else ""
            live.update(view.screen(self._seen(), failed, footer, self._killed()), refresh=True)
        else:
            text = view.line(self._seen(), failed)
            text += f"; {killed[-1]}" if (killed := self._killed()[1:]) else ""
            self._say(f"{text}{'; ' + self._activity if self._activity else ''}")

    def _killed(self) -> list[str]:
        """The keys, and what was killed lately."""
        if not self._killer:
            return ["kill with a key, as soon as the first number is there"] if self.options.kill else []
        return [f"kill: {self._killer.keys}", *(str(kill) for kill in self._killer.kills[-KILLS_SHOWN:])]

    # The end of a bounded run

    def _finish(self, others: Iterator[Callable[[], bool]], ready: Callable[[], bool] | None) -> int:
        """No more events; when everything has arrived everywhere, audit."""
        generator = self._supervisor.drop("generator")
        if generator:
            generator.stop(10.0)
        self._say("the generator has stopped; waiting until everything has arrived everywhere")
        while ready is not None and self._missing_flows():  # the first installation of the emulator may still run
            self._supervisor.tick()
            if ready():
                ready = next(others, None)
            self._say_every(LINE_S, self._activity)
            time.sleep(0.05)
        behind = self._settle()
        if self._killer:
            self._killer.stop()
        if behind:
            self._say(f"after {SETTLE_S:.0f} s still behind: {behind}")
        store = None if "partner" in self._systems.named else self.folder / "partner.sqlite3"
        settings = Settings.from_env(env=self.env)
        complete = everything_is_there(settings, self.options.sinks, store, self.folder, self.console)
        return 0 if not behind and complete and self._unharmed() else 1

    def _unharmed(self) -> bool:
        """After kills: all are back at work, and no reader ever saw a number of a window go back."""
        if not self._killer or not self._watcher:
            return True
        self._watcher.stop()
        self.console.print(self._killer.table())
        back = len(self._watcher.went_back)
        self._say(f"the boards were read {self._watcher.polls:,} times meanwhile; numbers that went back: {back}")
        return self._killer.settled() and not back

    def _failed(self) -> dict[str, str]:
        """Processes that are not running at the moment, with the reason."""
        return {name: each.reason for name, each in self._supervisor.jobs.items() if each.reason}

    def _missing_flows(self) -> bool:
        return not set(self.options.sinks) <= set(self._supervisor.jobs)

    def _settle(self) -> str:
        """Wait until capture and all sinks have reached the end. Returns who has not, in words; empty: all have."""
        target = last_write(self.settings.postgres)
        deadline = time.monotonic() + SETTLE_S
        while True:
            self._supervisor.tick()
            behind = []
            if (captured(self.settings.postgres, self.settings.cdc_slot) or 0) < target:
                behind.append("capture")
            behind += [f"{name} {reason}" for name, reason in self._failed().items()]
            behind += [f"{sink} by {count:,}" for sink, count in self._positions.waiting().items() if count]
            if not behind or time.monotonic() > deadline:
                return ", ".join(behind)
            self._say_every(LINE_S, f"still behind: {', '.join(behind)}")
            time.sleep(0.2)

    # Words

    def _age(self) -> float:
        return time.monotonic() - self._generating_since

    def _seen(self) -> Facts:
        assert self._observer is not None
        return self._observer.facts

    def _url(self) -> str:
        return f"http://127.0.0.1:{self.env['API_PORT']}"

    def _tell(self, text: str) -> None:
        """Said while the view is up: shown in it."""
        self._activity = text

    def _say(self, text: str) -> None:
        elapsed = time.monotonic() - self._begun
        self._said = time.monotonic()
        self.console.print(f"[dim]{elapsed:5.1f} s[/]  ", end="")
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _say_every(self, seconds: float, text: str) -> None:
        if time.monotonic() - self._said >= seconds:
            self._say(text)
