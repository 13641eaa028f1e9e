"""How much of its log PostgreSQL keeps for a replication slot, and how much more it would."""

from dataclasses import dataclass

import psycopg

# Both as the server counts them; a standby (from which a slot may be read too) writes no log of its own.
_QUERY = """
SELECT pg_wal_lsn_diff(
           CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, restart_lsn
       )::bigint,
       safe_wal_size,
       wal_status,
       (SELECT setting::bigint * 1024 * 1024 FROM pg_settings WHERE name = 'max_slot_wal_keep_size')
FROM pg_replication_slots WHERE slot_name = %s
"""
LITTLE = 0.2  # of what the server would keep


@dataclass(frozen=True, slots=True)
class SlotBacklog:
    """retained_bytes  log that is kept for the slot; None where the slot has lost it
    safe_bytes  may still be written before the server gives the slot up; None: it never does
    limit_bytes  max_slot_wal_keep_size; None: no limit
    wal_status  reserved, extended, unreserved or lost
    """

    retained_bytes: int | None
    safe_bytes: int | None
    limit_bytes: int | None
    wal_status: str

    @property
    def used(self) -> float | None:
        """Share of the limit, from 0 to 1."""
        if self.limit_bytes is None:
            return None
        return 1.0 if self.safe_bytes is None else min(1.0, max(0.0, 1 - self.safe_bytes / self.limit_bytes))

    def trouble(self, slot: str) -> str:
        """What is wrong and what to do, in a sentence; "" while all is well."""
        if self.wal_status == "lost":
            return f"PostgreSQL has given slot {slot} up: the next start of the capture says what to do"
        if self.limit_bytes is None or self.safe_bytes is None or self.safe_bytes >= LITTLE * self.limit_bytes:
            return ""
        kept = f"{(self.retained_bytes or 0) / 2**20:,.0f} MB"
        left = f"{max(0, self.safe_bytes) / 2**20:,.0f} MB"
        return (
            f"PostgreSQL keeps {kept} of its log for slot {slot} and gives the slot up after {left} more: look at the "
            "log of the capture for what it waits for, or raise max_slot_wal_keep_size"
        )


def read_backlog(connection: psycopg.Connection, slot: str) -> SlotBacklog | None:
    """None: there is no such slot (yet). Raises psycopg.Error."""
    row = connection.execute(_QUERY, [slot]).fetchone()
    if row is None:
        return None
    retained, safe, status, limit = row
    return SlotBacklog(retained, safe, limit if limit > 0 else None, status or "lost")
