"""Starts bqemulator 1.4.0 with its three concurrency faults patched. Runs in its own environment, not in ours.

python launcher.py DATA_DIR REST_PORT GRPC_PORT

Stock, the server (1) copies the whole table into a time-travel snapshot at each write, (2) shares one DuckDB connection
between threads, so that a query during AppendRows gets another statement's result or hangs the server, and (3) pins one
of the few default executor threads for each open AppendRows connection. The names used here are private: keep the pin.
"""

import asyncio
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bqemulator import server as server_module  # type: ignore[import-not-found]
from bqemulator.config import PersistenceMode, Settings  # type: ignore[import-not-found]
from bqemulator.grpc_api.write_servicer import BigQueryWriteHandler  # type: ignore[import-not-found]
from bqemulator.server import EmulatorServer  # type: ignore[import-not-found]
from bqemulator.versioning.snapshots import SnapshotManager  # type: ignore[import-not-found]

PROJECT = "demo-project"
ONE_AT_A_TIME = threading.Lock()  # outermost: taken before any lock of the emulator
WAITING = ThreadPoolExecutor(64)  # threads that wait for that lock on behalf of the event loop
ON_THE_LOOP = (
    "_handle_create_write_stream",
    "_handle_get_write_stream",
    "_handle_finalize_write_stream",
    "_handle_batch_commit_write_streams",
    "_handle_flush_rows",
)
IN_THREADS = ("_ensure_stream_bound", "_perform_append")


def main(data_dir: str, rest_port: str, grpc_port: str) -> None:
    """Serve until SIGTERM or SIGINT."""
    install_extensions()
    patch()
    settings = Settings(
        rest_port=int(rest_port),
        grpc_port=int(grpc_port),
        data_dir=Path(data_dir),
        persistence_mode=PersistenceMode.PERSISTENT,
        default_project_id=PROJECT,
        enable_format_extensions=False,  # Avro would be downloaded
        log_level="warning",
    )
    EmulatorServer(settings).run_forever()


def install_extensions() -> None:
    """Copy the spatial extension from its wheel below HOME once: without it the emulator tries to download it."""
    if not list(Path.home().glob(".duckdb/extensions/*/*/spatial.duckdb_extension")):
        from duckdb_extensions import import_extension  # type: ignore[import-not-found]

        import_extension("spatial")


def patch() -> None:
    SnapshotManager.capture = lambda self, *args, **kwargs: None  # FOR SYSTEM_TIME AS OF is lost
    SnapshotManager.run_gc_loop = _nothing
    for name in ON_THE_LOOP:
        setattr(BigQueryWriteHandler, name, _locked_on_the_loop(getattr(BigQueryWriteHandler, name)))
    for name in IN_THREADS:
        setattr(BigQueryWriteHandler, name, _locked_in_a_thread(getattr(BigQueryWriteHandler, name)))
    create_app = server_module.create_app
    server_module.create_app = lambda context: _locked_app(create_app(context))
    start = EmulatorServer.start

    async def start_with_threads(self: Any) -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(128))
        await start(self)

    EmulatorServer.start = start_with_threads


async def _nothing(self: Any, **_: Any) -> None:
    """There are no snapshots to collect."""


async def _acquire() -> None:
    # a blocking acquire on the event loop would stop the thread that holds the lock from ever answering
    await asyncio.get_running_loop().run_in_executor(WAITING, ONE_AT_A_TIME.acquire)


def _locked_on_the_loop(handler: Callable[..., bytes]) -> Callable[..., Any]:
    async def locked(self: Any, request: bytes, context: Any) -> bytes:
        await _acquire()
        try:
            return handler(self, request, context)
        finally:
            ONE_AT_A_TIME.release()

    return locked


def _locked_in_a_thread(method: Callable[..., Any]) -> Callable[..., Any]:
    def locked(self: Any, *args: Any) -> Any:
        with ONE_AT_A_TIME:
            return method(self, *args)

    return locked


def _locked_app(app: Any) -> Any:
    async def locked(scope: Any, receive: Any, send: Any) -> None:
        await _acquire()
        try:
            await app(scope, receive, send)
        finally:
            ONE_AT_A_TIME.release()

    return locked


if __name__ == "__main__":
    main(*sys.argv[1:])
