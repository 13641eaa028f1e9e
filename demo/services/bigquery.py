"""A stand-in for BigQuery (bqemulator) in an environment of its own, made by uv the first time it is needed."""

import fcntl
import hashlib
import os
import shutil
import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path

from demo.services import children
from demo.services.places import cache_dir
from demo.services.server import Say, Server, quietly

PROJECT = Path(__file__).parent.parent / "bigquery_emulator"


class BigQueryEmulator(Server):
    """REST and gRPC (Storage Write API) on the loopback interface; 3-6 s to start.

    Tables survive kill -9; write streams do not survive a restart.
    """

    name = "BigQuery emulator"
    ports_needed = 2
    project = "demo-project"

    @property
    def rest(self) -> str:
        return f"127.0.0.1:{self.ports[0]}"

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.ports[1]}"

    @property
    def address(self) -> dict[str, str]:
        return {"rest": self.rest, "grpc": self.grpc, "project": self.project}

    def prepare(self, say: Say = quietly) -> None:
        _environment(say)
        (self.root / "data").mkdir(parents=True, exist_ok=True)
        self.choose_ports()

    def spawn(self) -> None:
        home = _environment(quietly)
        argv: list[str | Path] = [
            home / "venv" / "bin" / "python",
            PROJECT / "launcher.py",
            self.root / "data",
            *map(str, self.ports),
        ]
        env = {"HOME": str(home), "PATH": os.environ.get("PATH", ""), "LANG": "C.UTF-8"}
        self.child = children.spawn(self.name, argv, log=self.log, env=env, cwd=self.root)

    def wait_ready(self) -> None:
        def answers() -> bool:
            try:
                with urllib.request.urlopen(f"http://{self.rest}/healthz", timeout=1):
                    pass
                socket.create_connection(("127.0.0.1", self.ports[1]), timeout=1).close()  # opened after REST
            except (OSError, urllib.error.URLError):
                return False
            return True

        children.wait_until(answers, self.running(), patience_s=120, pause_s=0.1)


def _environment(say: Say) -> Path:
    """The folder that holds venv/ and, as its HOME, the DuckDB extension; made once for each lock file."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    digest = hashlib.sha256((PROJECT / "uv.lock").read_bytes()).hexdigest()[:12]
    home = cache_dir() / f"bigquery-emulator-{digest}-{version}"
    marker = home / ".complete"
    if marker.exists():
        return home
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not marker.exists():
            say(f"BigQuery emulator: installing it (about 160 MB to download, 640 MB on disk, once) into {home}")
            env = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
            env["UV_PROJECT_ENVIRONMENT"] = str(home / "venv")
            sync = [_uv(), "sync", "--locked", "--no-dev", "--compile-bytecode", "--python", version]
            sync += ["--project", str(PROJECT)]
            children.run("uv sync", sync, log=home / "uv.log", env=env, patience_s=600)
            code = f"import sys; sys.path.insert(0, {str(PROJECT)!r}); import launcher; launcher.install_extensions()"
            env["HOME"] = str(home)
            children.run("the DuckDB extension", [home / "venv/bin/python", "-c", code], log=home / "uv.log", env=env)
            marker.touch()
    return home


def _uv() -> str:
    """Where scripts/bootstrap.py put it, else the one on PATH."""
    placed = (Path(sys.executable).parent / "uv", PROJECT.parent.parent / ".uv" / "bin" / "uv")
    found = next((str(uv) for uv in placed if uv.exists()), None) or shutil.which("uv")
    if not found:
        raise children.ServiceFailed("uv is needed to install the BigQuery emulator: run `make`, which brings it.")
    return found
