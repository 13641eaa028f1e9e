"""The stream of a logical replication slot: what the server sends, and what we confirm to it."""

import time
from struct import Struct

from psycopg import OperationalError
from psycopg.errors import error_from_result

from sources.pgoutput import lsn_text
from sources.postgres_session import Session, literal, name

DATA, KEEPALIVE = b"wk"
STATUS_EVERY_S = 10.0  # the server gives up on a client that says nothing for wal_sender_timeout, a minute
POSTGRES_EPOCH_S = 946_684_800  # 2000-01-01 in seconds since 1970

_DATA_HEADER_BYTES = 25  # kind, start, end, clock
_KEEPALIVE = Struct("!cQqB")  # kind, end of what was sent, clock, reply requested
_STATUS = Struct("!cQQQqB")  # kind, written, flushed, applied, clock, reply requested


class ReplicationStream:
    """Messages of one slot from `lsn` on.

    Takes the session over: it can no longer be asked. Nor may it have been before: a table that the session has seen as
    it is now, PostgreSQL then decodes in that shape, also rows from before an ALTER TABLE (seen on 18.4).

    sent_lsn  the server has sent all that committed before this
    Raises psycopg.Error; OperationalError where the connection has ended.
    """

    def __init__(self, session: Session, slot: str, publication: str, lsn: int) -> None:
        """lsn  where to begin: nothing that committed before it is sent; it counts as confirmed already."""
        session.result(
            f"START_REPLICATION SLOT {name(slot)} LOGICAL {lsn_text(lsn)} "
            f"(proto_version '1', publication_names {literal(publication)})"
        )
        self.sent_lsn = lsn
        self._session = session
        self._wire = session.wire
        self._confirmed = lsn
        self._told_at = time.monotonic()

    def receive(self) -> bytes | None:
        """The next message of the plugin, or None where the stream is dry for now. Never waits."""
        wire = self._wire
        asked = False
        while True:
            size, data = wire.get_copy_data(1)
            if size > 0:
                if data[0] == DATA:
                    return bytes(data[_DATA_HEADER_BYTES:])
                if data[0] == KEEPALIVE:
                    _, sent_lsn, _, reply = _KEEPALIVE.unpack_from(data)
                    self.sent_lsn = max(self.sent_lsn, sent_lsn)
                    if reply:
                        self._tell()
            elif size == 0:
                if asked:
                    return None
                wire.consume_input()
                asked = True
            else:
                self._ended()

    def wait(self, seconds: float) -> None:
        """Wait until the server has sent something, at most this long."""
        self._session.readable(seconds)

    def confirm(self, lsn: int) -> None:
        """Everything that committed before `lsn` is safe elsewhere: the server may forget it."""
        if lsn > self._confirmed:
            self._confirmed = lsn
            self._tell()
        elif time.monotonic() - self._told_at > STATUS_EVERY_S:
            self._tell()

    def close(self) -> None:
        self._session.close()

    def ask_for_news(self) -> None:
        """Have the server say at once how far it has sent (`sent_lsn`, after the next `receive`)."""
        self._tell(reply=True)

    def _tell(self, reply: bool = False) -> None:
        clock_us = int((time.time() - POSTGRES_EPOCH_S) * 1_000_000)
        lsn = self._confirmed
        self._wire.put_copy_data(_STATUS.pack(b"r", lsn, lsn, lsn, clock_us, reply))
        self._wire.flush()
        self._told_at = time.monotonic()

    def _ended(self) -> None:
        """The server has ended the stream: raise what it says."""
        result = self._wire.get_result()
        if result is not None and result.error_message:
            raise error_from_result(result)
        raise OperationalError("the server has ended the replication stream (it shuts down)")
