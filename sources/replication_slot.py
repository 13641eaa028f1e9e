"""The replication slot of a capture, and the checks that keep a start from jumping over rows."""

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import structlog

from sources.change_position import RECAPTURE, ChangePosition
from sources.pgoutput import lsn_number, lsn_text
from sources.positions import FlowStopped
from sources.postgres_session import Session, literal, name

log = structlog.get_logger()

TERMINATE_TIMEOUT_MS = 5000
PROVISION = "create it with: python -m operations.provision"


@dataclass(frozen=True, slots=True)
class Server:
    """Which server this is: LSNs mean nothing on another one, nor on another timeline of the same.

    written  the end of its log, the only part that changes by itself"""

    system: str
    timeline: int
    database: str
    written: int = field(compare=False)


@dataclass(frozen=True, slots=True)
class Slot:
    """A logical replication slot as the server knows it; `confirmed` is the LSN up to which it may forget."""

    database: str
    plugin: str
    wal_status: str
    invalidation: str | None
    confirmed: int
    active_pid: int | None


def identify(session: Session) -> Server:
    """Needs a replication session."""
    row = session.ask("IDENTIFY_SYSTEM")[0]
    return Server(
        str(row["systemid"]), int(row["timeline"] or 0), str(row["dbname"]), lsn_number(row["xlogpos"] or "0/0")
    )


def published_columns(session: Session, publication: str, schema: str, table: str) -> list[str]:
    """The columns of the table that the publication sends, in the table's order.

    Raises FlowStopped where the server, the publication or the table is not made for a capture."""
    if session.ask("SHOW wal_level")[0]["wal_level"] != "logical":
        raise FlowStopped(
            "PostgreSQL runs without wal_level=logical: set it in postgresql.conf and restart the server."
        )
    found = session.ask(
        "SELECT p.pubinsert, array_to_json(t.attnames) AS columns FROM pg_publication p "
        f"LEFT JOIN pg_publication_tables t ON t.pubname = p.pubname AND t.schemaname = {literal(schema)} "
        f"AND t.tablename = {literal(table)} WHERE p.pubname = {literal(publication)}"
    )
    where = f"Publication {publication} of PostgreSQL"
    if not found:
        raise FlowStopped(f"{where} does not exist: {PROVISION}.")
    if found[0]["columns"] is None or found[0]["pubinsert"] != "t":
        raise FlowStopped(f"{where} does not publish the inserts of {schema}.{table}: {PROVISION}.")
    return msgspec.json.decode(str(found[0]["columns"]), type=list[str])


def find(session: Session, slot: str) -> Slot | None:
    """The slot of this name, in whichever database of the server."""
    rows = session.ask(
        "SELECT database, plugin, wal_status, confirmed_flush_lsn AS confirmed, active_pid, "
        "to_jsonb(s) ->> 'invalidation_reason' AS invalidation "  # a column only since version 17
        f"FROM pg_replication_slots s WHERE slot_name = {literal(slot)}"
    )
    if not rows:
        return None
    row = rows[0]
    return Slot(
        str(row["database"]),
        str(row["plugin"]),
        str(row["wal_status"]),
        row["invalidation"],
        lsn_number(row["confirmed"] or "0/0"),
        int(row["active_pid"]) if row["active_pid"] else None,
    )


def check(
    slot: str,
    found: Slot | None,
    server: Server,
    position: ChangePosition | None,
    at_risk: Callable[[], str],
) -> None:
    """Refuse to go on where rows might be missing or come twice.

    at_risk  says which rows those are, as a sentence
    Raises FlowStopped."""
    where = f"Replication slot {slot}"
    if found is not None and (found.database, found.plugin) != (server.database, "pgoutput"):
        raise FlowStopped(
            f"{where} belongs to database {found.database} (plugin {found.plugin}), not to {server.database} "
            "(pgoutput): set CDC_SLOT to a name of its own."
        )
    if position is None:
        if found is not None:
            raise FlowStopped(
                f"{where} exists, but Kafka holds no position of this capture, so nobody knows which rows were sent. "
                f"{at_risk()} To send those that the topic lacks: {RECAPTURE}"
            )
        return
    if position.phase == "creating":
        return
    repair = f"{at_risk()} To send what the topic lacks: {RECAPTURE}"
    stood = Server(position.system, position.timeline, position.database, position.lsn_number)
    if stood != server:
        raise FlowStopped(
            f"The capture stands at {position.lsn} of PostgreSQL system {stood.system}, timeline {stood.timeline}, "
            f"database {stood.database}, but this server is system {server.system}, timeline {server.timeline}, "
            f"database {server.database} (another server, a restored copy or a failover): connect to the former, or "
            f"go on with this one. {repair}"
        )
    if server.written < position.lsn_number:
        raise FlowStopped(
            f"The capture stands at {position.lsn}, but the log of this PostgreSQL ends before that, at "
            f"{lsn_text(server.written)}: an older copy of it was put in its place. {repair}"
        )
    if found is None:
        raise FlowStopped(f"{where} is gone, and with it what committed after {position.lsn}. {repair}")
    if found.wal_status == "lost" or found.invalidation:
        raise FlowStopped(
            f"{where} was given up by the server ({found.invalidation or found.wal_status}) while the capture was "
            f"away, and with it what committed after {position.lsn}. {repair} (To allow longer absences raise "
            "max_slot_wal_keep_size of PostgreSQL.)"
        )
    if found.confirmed > position.lsn_number:
        raise FlowStopped(
            f"{where} has moved past the capture's position {position.lsn}: somebody else read or recreated it. "
            f"{repair}"
        )


def take_over(session: Session, slot: Slot) -> None:
    """End the connection of the process that reads the slot. It is fenced in Kafka before, so it cannot come back."""
    if slot.active_pid is not None:
        log.warning("taking_slot_over", from_backend=slot.active_pid)
        session.ask(f"SELECT pg_terminate_backend({slot.active_pid}, {TERMINATE_TIMEOUT_MS})")


def create(session: Session, slot: str, *, temporary: bool = False) -> tuple[int, str]:
    """Create the slot; the LSN from which it sends, and the name of the snapshot that holds all before it.

    temporary  a slot that ends with the session: a snapshot whose place in the stream is known exactly
    Waits for transactions that are open now. The snapshot lives until the session's next command."""
    log.info("creating_slot", slot=slot, temporary=temporary, waits_for="transactions that are open now")
    kind = "TEMPORARY LOGICAL" if temporary else "LOGICAL"
    row = session.ask(f"CREATE_REPLICATION_SLOT {name(slot)} {kind} pgoutput (SNAPSHOT 'export')")[0]
    return lsn_number(str(row["consistent_point"])), str(row["snapshot_name"])


def drop(session: Session, slot: str) -> None:
    session.ask(f"DROP_REPLICATION_SLOT {name(slot)} WAIT")
