"""Runs one service for as long as another process lives: `python -m demo.services kafka --root DIR --watch PID`.

Tests share services this way: whichever test needs one first starts its keeper; the test run's own process is the one
watched, so nothing is left behind however that process ends.
"""

import json
import os
import select
import shutil
import signal
from pathlib import Path
from typing import Annotated

import typer

from demo.services import KINDS
from demo.services.children import ServiceFailed


def keep(
    kind: Annotated[str, typer.Argument(help=f"which service: {', '.join(KINDS)}")],
    root: Annotated[Path, typer.Option(help="folder of its data")],
    watch: Annotated[int, typer.Option(help="process to live with")],
) -> None:
    """Start the service, write its address to ROOT/address.json; stop it and remove ROOT when WATCH has ended.

    Where it cannot start, ROOT stays, with the reason in ROOT/failed.
    """
    root.mkdir(parents=True, exist_ok=True)
    watched = os.pidfd_open(watch)
    server = KINDS[kind](root)
    stopping, wake = os.pipe()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os.write(wake, b"."))
    try:
        server.start()
    except ServiceFailed as error:
        (root / "failed").write_text(str(error))
        raise SystemExit(1) from error
    part = root / "address.part"
    part.write_text(json.dumps(server.address))
    part.rename(root / "address.json")
    child = os.pidfd_open(server.pid)
    select.select([watched, stopping, child], [], [])
    server.stop()
    shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    typer.run(keep)
