"""Forks the processes of crash trials: it has imported everything, so that a start costs a tenth of its CPU.

    python -m tests.crashes.template        one JSON object a line on stdin and stdout

    {"module": ..., "arguments": [...], "without": [...], "env": {...}, "log": path, "cwd": path}  ->  {"started": pid}
    when one has ended: {"ended": pid, "status": exit code, negative: the signal}

What is forked has a pid, memory, connections and files of its own, as any process: it is killed and frozen by itself.
"""

import ctypes
import json
import os
import select
import signal
import sys
import tempfile
import traceback
from typing import Any, NoReturn

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    _import_everything()
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    tell(ready=True)
    waiting = b""
    while True:
        able, _, _ = select.select([0, read], [], [])
        if read in able:
            os.read(read, 4096)
            _reap()
        if 0 in able:
            chunk = os.read(0, 1 << 20)
            if not chunk:
                return
            *lines, waiting = (waiting + chunk).split(b"\n")
            for line in lines:
                tell(started=_fork(json.loads(line)))


def tell(**words: Any) -> None:
    os.write(1, json.dumps(words).encode() + b"\n")


def _import_everything() -> None:
    """What the deployments import, none of it connected to anything: a thread or channel would not survive the fork."""
    import bytewax.run
    import uvicorn

    import dataflows.cdc_capture
    import dataflows.engagement
    import dataflows.health
    import demo.partner_receiver
    import operations.provision
    import sinks.bigquery
    import sinks.dead_letters
    import sinks.partner
    import sinks.redis
    import tests.fakes.bigquery_write

    del bytewax, uvicorn, dataflows, demo, operations, sinks, tests


def _fork(wanted: dict[str, Any]) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _live(wanted, parent)
    return pid


def _live(wanted: dict[str, Any], parent: int) -> NoReturn:
    code = 1
    try:
        _libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        log = os.open(wanted["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(wanted["cwd"])
        os.environ.clear()
        os.environ.update(wanted["env"])
        tempfile.tempdir = None
        from tests.crashes.child import become

        become(wanted["module"], wanted["arguments"], wanted["without"])
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _reap() -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        tell(ended=pid, status=os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
