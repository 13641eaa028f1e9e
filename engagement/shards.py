"""What several contents keep in one stored string: records that begin with the content's tag, joined.

A user is tag and number. An event is tag, length, and itself as engagement/recent.py has it.
"""

from collections.abc import Iterator
from struct import Struct
from typing import Final

import numpy as np
import numpy.typing as npt

from engagement.content_rows import Tags
from engagement.parse import Integers
from engagement.recent import HEADER, EncodedEvents, RecentEvent, decoded

USER_RECORD: Final = np.dtype([("tag", "<u8"), ("user", "<u4")])
_EVENT_RECORD: Final = np.dtype([("tag", "<u8"), ("length", "<u2"), ("header", HEADER)])
_PREFIX: Final = Struct("<QH")


def user_records(tags: Tags, users: Integers) -> npt.NDArray[np.void]:
    """One record per user, USER_RECORD [n]."""
    records = np.empty(len(users), USER_RECORD)
    records["tag"] = tags
    records["user"] = users
    return records


def users_of(stored: bytes, tag: int) -> npt.NDArray[np.uint32]:
    """The numbers of a content's users in a string, as often as they lie there."""
    records = np.frombuffer(stored, USER_RECORD)
    users: npt.NDArray[np.uint32] = records["user"][records["tag"] == tag]
    return users


def event_records(tags: Tags, events: EncodedEvents, rows: Integers) -> list[bytes]:
    """These rows of the events as records, tags in step, each in two parts: what has a fixed width, then its text."""
    records = np.empty(len(rows), _EVENT_RECORD)
    texts = [events.texts[row] for row in rows.tolist()]
    records["tag"] = tags
    records["length"] = np.fromiter(map(len, texts), np.int64, len(texts)) + events.headers.itemsize
    records["header"] = events.headers[rows]
    parts = [b""] * (2 * len(rows))
    parts[::2] = records.view(f"V{_EVENT_RECORD.itemsize}").tolist()
    parts[1::2] = texts
    return parts


def events_of(stored: bytes, tag: int) -> Iterator[RecentEvent]:
    """The events of a content in a string."""
    place = 0
    while place < len(stored):
        of, length = _PREFIX.unpack_from(stored, place)
        place += _PREFIX.size + length
        if of == tag:
            yield from decoded(stored[place - length : place])
