"""Where things are kept on this machine: the download cache, ports, and directories that `nobody` can reach."""

import hashlib
import os
import pwd
import shutil
import socket
import stat
from pathlib import Path

PROJECT = "engagement-pipeline"
API_PORT = 8080  # belongs to the API, whether it runs or not


def cache_dir() -> Path:
    """The user's cache for what is downloaded once, XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / PROJECT


def free_port() -> int:
    """A free TCP port of the loopback interface. Another process may take it before its user does: rare, retried."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port != API_PORT:
            return port


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def server_user() -> str | None:
    """The user PostgreSQL runs as: `nobody` where we are root (it refuses root), else ourselves (None)."""
    return "nobody" if os.geteuid() == 0 else None


def reachable_by_others(path: Path) -> bool:
    """Whether any user may enter this directory and every one above it."""
    path = path.resolve()
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in (path, *path.parents))


def directory_for_server(wanted: Path) -> Path:
    """`wanted`, created and owned by the server's user; or, where that user cannot reach it (a checkout below
    /root), a directory of /var/tmp named after it."""
    user = server_user()
    if user is None:
        wanted.mkdir(parents=True, exist_ok=True, mode=0o700)
        return wanted
    wanted.parent.mkdir(parents=True, exist_ok=True)
    if not reachable_by_others(wanted.parent):
        name = hashlib.sha256(str(wanted.resolve()).encode()).hexdigest()[:12]
        wanted = Path("/var/tmp") / f"{PROJECT}-{name}"
    wanted.mkdir(exist_ok=True, mode=0o700)
    owner = pwd.getpwnam(user)
    if wanted.stat().st_uid != owner.pw_uid:
        os.chown(wanted, owner.pw_uid, owner.pw_gid)
    return wanted


def readable_by_server(folder: Path, label: str) -> Path:
    """`folder`, or a copy of it that the server's user can read where `folder` lies below a closed directory.

    label  names the copy with its version, so that an update makes a new one
    """
    if server_user() is None or reachable_by_others(folder):
        return folder
    copy = Path("/var/tmp") / f"{PROJECT}-{label}"
    if not (copy / ".complete").exists():
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy, symlinks=True)
        copy.chmod(0o755)
        (copy / ".complete").touch()
    return copy
