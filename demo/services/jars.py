"""Kafka's jars: downloaded once by jgo as a mere downloader, each checked against demo/kafka_jars.lock.

jgo does not resolve: its own resolution picks older kafka-clients and Jackson than Kafka was built with.
"""

import hashlib
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from demo.services.children import ServiceFailed
from demo.services.places import cache_dir

LOCK = Path(__file__).parent.parent / "kafka_jars.lock"


def lock_hash() -> str:
    """Short name of this exact set of jars."""
    return hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]


def kafka_jars(say: Callable[[str], None]) -> list[Path]:
    """The jars, sorted by name (the AOT cache needs the same class path each time); downloads them when absent."""
    folder = cache_dir() / f"kafka-{lock_hash()}"
    marker = folder / ".complete"  # written last: a download cut short starts again
    if not marker.exists():
        say(f"Kafka: downloading {len(_locked())} jars from Maven Central (43 MB, once) into {folder}")
        folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(8) as pool:
            try:
                list(pool.map(lambda jar: _fetch(jar[0], jar[1], folder), _locked()))
            except ServiceFailed:
                raise
            except Exception as error:  # jgo raises what requests, urllib and itself come up with
                raise ServiceFailed(
                    f"Kafka's jars could not be downloaded: {error}. Maven Central must be reachable once; or name a "
                    "Kafka that runs already in KAFKA_BOOTSTRAP_SERVERS."
                ) from error
        marker.touch()
    return sorted(folder.glob("*.jar"))


def _locked() -> list[tuple[str, str]]:
    lines = (line.split() for line in LOCK.read_text().splitlines() if line.strip())
    return [(coordinate, digest) for coordinate, digest in lines]


def _fetch(coordinate: str, digest: str, folder: Path) -> None:
    from jgo.maven import MavenContext  # needed once per machine, and slow to import

    group, artifact, version = coordinate.split(":")
    target = folder / f"{artifact}-{version}.jar"
    if target.exists() and _sha256(target) == digest:
        return
    found = MavenContext(timeout=60).project(group, artifact).at_version(version).artifact().resolve()
    if _sha256(found) != digest:
        raise ServiceFailed(f"{found} is not the jar of {LOCK.name} (sha256 {digest}): delete it and start again.")
    part = target.with_suffix(f".{os.getpid()}.part")  # two processes may download at once
    shutil.copyfile(found, part)
    part.rename(target)


def _sha256(path: Path) -> str:
    with path.open("rb") as jar:
        return hashlib.file_digest(jar, "sha256").hexdigest()
