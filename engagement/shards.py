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
from engagement.recent import RecentEvent, decoded

USER_RECORD: Final = np.dtype([("tag", "<u8"), ("user", "<u4")])
_EVENT_PREFIX: Final = np.dtype([("tag", "<u8"), ("length", "<u2")])
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


def event_records(tags: Tags, entries: list[bytes]) -> list[bytes]:
    """One record per event."""
    prefixes = np.empty(len(entries), _EVENT_PREFIX)
    prefixes["tag"] = tags
    prefixes["length"] = list(map(len, entries))
    told = prefixes.view(f"V{_PREFIX.size}").tolist()
    return [prefix + entry for prefix, entry in zip(told, entries, strict=True)]


def events_of(stored: bytes, tag: int) -> Iterator[RecentEvent]:
    """The events of a content in a string."""
    place = 0
    while place < len(stored):
        of, length = _PREFIX.unpack_from(stored, place)
        place += _PREFIX.size + length
        if of == tag:
            yield from decoded(stored[place - length : place])
