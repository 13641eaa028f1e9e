"""Where the capture of one table stands, as it is stored in Kafka together with the rows it speaks of."""

from typing import Literal

import msgspec

from sources.pgoutput import lsn_number, lsn_text

RECAPTURE = "python -m operations.provision --recapture"  # sends what the topic lacks, and goes on from there


class ChangePosition(msgspec.Struct, frozen=True, omit_defaults=True):
    """Stored before the first row, with every group of rows, and now and then while the table is idle.

    system, timeline, database   the server that LSNs belong to; after a failover they mean something else
    phase    creating: the slot is about to be created, nothing was sent since
             snapshot: the rows that `lsn` finds in the table are being sent, in the order of their ids
             stream:   all that committed before `lsn` is sent; what follows comes from the slot
    lsn      as PostgreSQL prints it
    after    snapshot: the rows up to this id are sent
    partly   stream: LSN of the commit of the next transaction, if `sent` of its rows are sent already
    highest  the highest id that was ever sent; None: nothing was, or a version stored it that did not know
    again    creating, snapshot: the table is captured again, without the rows that the topic has already
    """

    system: str
    timeline: int
    database: str
    phase: Literal["creating", "snapshot", "stream"]
    lsn: str = "0/0"
    after: int | None = None
    partly: str | None = None
    sent: int = 0
    highest: int | None = None
    again: bool = False

    @property
    def lsn_number(self) -> int:
        return lsn_number(self.lsn)

    @property
    def partly_number(self) -> int | None:
        return None if self.partly is None else lsn_number(self.partly)

    def streaming(
        self, lsn: int, partly: int | None = None, sent: int = 0, highest: int | None = None
    ) -> "ChangePosition":
        """The same server, this far in the stream; `highest` of the rows sent since."""
        return ChangePosition(
            self.system,
            self.timeline,
            self.database,
            "stream",
            lsn_text(lsn),
            partly=None if partly is None else lsn_text(partly),
            sent=sent,
            highest=highest_of(self.highest, highest),
        )

    def captured_again(self) -> "ChangePosition":
        """From any place, also of another server: a new slot, its snapshot, and of that what the topic lacks."""
        highest = highest_of(self.highest, self.after)  # a snapshot of a former version told `after` only
        return ChangePosition(self.system, self.timeline, self.database, "creating", highest=highest, again=True)

    def creating(self, system: str, timeline: int, database: str) -> "ChangePosition":
        """On this server now: nothing was sent from the one it was to be."""
        return msgspec.structs.replace(self, system=system, timeline=timeline, database=database, phase="creating")


def highest_of(*ids: int | None) -> int | None:
    return max((each for each in ids if each is not None), default=None)


def encoded(position: ChangePosition) -> bytes:
    return msgspec.json.encode(position)


def decoded(stored: bytes) -> ChangePosition:
    return msgspec.json.decode(stored, type=ChangePosition)
