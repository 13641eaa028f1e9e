"""How a flow starts, owns its recovery directory, and ends: cleanly, fenced, or with a sentence.

A process never ends in the middle of a promise: every position is settled with its destination, so ending at once
(`os._exit`) is always safe, and the clean stop only spares the next start a replay.
"""

import fcntl
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import bytewax.run
import structlog

from sources.positions import Fenced, FlowStopped, LostWrites

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
STOP_DEADLINE_S = 25.0  # a clean stop ends within 30 s, also with a destination down
FENCED_BACK_OFF_S = 60.0  # so that two owners of one partition do not chase each other
STATE_VERSION = 1  # of what the recovery directory holds: raise it when an older snapshot can no longer be read

log = structlog.get_logger()


class Stop:
    """The request to stop: set by SIGTERM or SIGINT, seen by sources (they read no more) and by retry loops."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._open: set[str] = set()

    def __call__(self) -> bool:
        return self._asked.is_set()

    def listen(self) -> None:
        """Take SIGTERM and SIGINT on a thread of their own: the engine may keep the main thread for seconds.

        Must run on the main thread. Not by a signal mask: numpy has started threads without it by now, and one of
        those would get the signal. Python's own handler writes to the pipe from whichever thread that is."""
        read, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for asked in STOP_SIGNALS:
            signal.signal(asked, lambda *_: None)
        threading.Thread(target=self._wait, args=(read,), name="signals", daemon=True).start()

    def ask(self) -> None:
        """Stop: what is in flight is settled, or abandoned after the deadline."""
        if self._asked.is_set():
            return
        log.info("stopping", deadline_s=STOP_DEADLINE_S)
        self._asked.set()
        threading.Timer(STOP_DEADLINE_S, abandon).start()

    def wait(self, seconds: float) -> bool:
        """Sleep, but not past a request to stop. True if there is one."""
        return self._asked.wait(seconds)

    def working(self, part: str) -> None:
        """A source part is running here; the process ends when every one has come to rest."""
        self._open.add(part)

    def rested(self, part: str) -> None:
        """All that the part ever read is settled and snapshotted. Ends the process with the last part."""
        self._open.discard(part)
        if not self._open:
            leave(0)

    def _wait(self, signals: int) -> None:
        while number := os.read(signals, 1):
            if number[0] in STOP_SIGNALS:
                self.ask()


stopping = Stop()
_fenced_marker: list[Path] = []  # the file that tells the next process that this one was fenced


def leave(code: int) -> NoReturn:
    """End now: the engine would otherwise close windows or wait for peers that are gone."""
    log.info("stopped", exit_code=code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def abandon() -> NoReturn:
    """End while a destination does not answer: nothing of it is committed, the next start repeats it."""
    leave(0)


def waiting_for_kafka(what: str) -> None:
    """Said before each repetition at a start; a request to stop ends the waiting."""
    log.warning("waiting_for_kafka", to=what)
    if stopping():
        abandon()


def end(why: FlowStopped) -> NoReturn:
    """End with one sentence. Lost writes start this process again at once, a fenced one backs off a minute."""
    log.error("flow_stopped", why=str(why), kind=type(why).__name__)
    sys.stdout.flush()
    sys.stderr.flush()
    execution = Execution.of_this_process()
    if isinstance(why, LostWrites) and execution.alone:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    if isinstance(why, Fenced) and _fenced_marker:
        _fenced_marker[0].touch()
    os._exit(1)


@contextmanager
def ending(doing: str) -> Iterator[None]:
    """Around every callback of the engine: a FlowStopped ends the process with its sentence; anything else is
    logged here with its traceback, because the engine loses it where there are several processes."""
    try:
        yield
    except FlowStopped as why:
        end(why)
    except Exception:
        log.exception("failed", doing=doing)
        sys.stderr.flush()
        raise


@dataclass(frozen=True)
class Execution:
    """How `python -m bytewax.run` was called: recovery directory or None, index of this process, is it the only one."""

    recovery: Path | None
    index: int
    alone: bool

    @classmethod
    def of_this_process(cls) -> "Execution":
        """From the arguments and environment that the engine itself reads."""
        if Path(sys.argv[0]).name != "run.py":
            return cls(None, 0, True)
        arguments = bytewax.run._parse_args()  # type: ignore[no-untyped-call]  # no public way to see them
        recovery = Path(arguments.recovery_directory) if arguments.recovery_directory else None
        return cls(recovery, int(arguments.process_id or 0), ";" not in (arguments.addresses or ""))


def own_recovery(made_for: dict[str, object]) -> None:
    """Take the recovery directory for this process: refused while another holds it or if it was made for other work.

    made_for  partitions, sinks, topic ... of this process: what the snapshots in the directory mean
    Raises FlowStopped. The lock lives as long as the process.
    """
    execution = Execution.of_this_process()
    directory = execution.recovery
    if directory is None:
        log.warning("no_recovery_directory", meaning="a restart starts from the positions of the destinations")
        return
    if not list(directory.glob("part-*.sqlite3")):
        raise FlowStopped(
            f"The recovery directory {directory} is not initialised: mkdir -p {directory} && "
            f"python -m bytewax.recovery {directory} 1"
        )
    lock = os.open(directory / f"owner-{execution.index}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.pread(lock, 32, 0).decode() or "unknown"
        raise FlowStopped(
            f"The recovery directory {directory} is in use by the living process {holder} (index {execution.index}): "
            "stop it first, or give this one a directory of its own."
        ) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    wanted = json.loads(json.dumps({**made_for, "state_version": STATE_VERSION}))
    label = directory / "made-for.json"
    if label.exists():
        found = json.loads(label.read_text(encoding="utf-8"))
        different = sorted(name for name in wanted if found.get(name) != wanted[name])
        if different:
            told = "; ".join(f"{name}: {found.get(name)!r}, now {wanted[name]!r}" for name in different)
            raise FlowStopped(
                f"The recovery directory {directory} was made for other work ({told}): use another directory; an "
                "empty one loses nothing, the destinations keep their positions."
            )
    else:
        fresh = label.with_suffix(f".{os.getpid()}")
        fresh.write_text(json.dumps(wanted), encoding="utf-8")
        fresh.rename(label)
    back_off_if_fenced(directory / f"fenced-{execution.index}")


def back_off_if_fenced(marker: Path) -> None:
    """Wait out the minute after the last process that left this marker was fenced; leave it when this one is."""
    _fenced_marker[:] = [marker]
    if not marker.exists():
        return
    left = marker.stat().st_mtime + FENCED_BACK_OFF_S - time.time()
    if left > 0:
        log.warning("backing_off", seconds=round(left), why="another process took this one's partitions over")
        if stopping.wait(left):
            leave(0)
    marker.unlink()
