"""Recent events as they are stored: a header of fixed width each, then event id and device. No user: boards are open.

The bytes of several events may be joined; `decoded` takes them apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from struct import Struct
from typing import Final

import numpy as np
import numpy.typing as npt

from engagement.enrich import EnrichedEvents
from engagement.parse import Integers

# The newest so many of a content are shown, none that is older than this against the clock of its reader.
RECENT_MAX: Final = 50
RECENT_MS: Final = 3_600_000

# Big-endian and the offset first: of one time, events sort by offset as bytes do. Numbers: -1 is null.
_COLUMNS: Final = np.dtype(
    {
        "names": [
            "offset",
            "event_ts_us",
            "duration_ms",
            "percentage",
            "type",
            "anomalies",
            "id_bytes",
            "device_bytes",
        ],
        "formats": [">i8", ">i8", ">i4", ">i4", "u1", "u1", ">u2", ">u2"],
    }
)
HEADER: Final = np.dtype(f"V{_COLUMNS.itemsize}")  # as bytes: NumPy joins columns in the machine's byte order
_HEADER: Final = Struct(">qqiiBBHH")
_NULL_DEVICE: Final = 0xFFFF


@dataclass(frozen=True, slots=True)
class RecentEvent:
    """One of them. percentage: hundredths of a percent; type, anomalies: a code and bits, see events.py, enrich.py."""

    offset: int
    event_ts_us: int
    duration_ms: int | None
    percentage: int | None
    type: int
    anomalies: int
    event_id: str
    device: str | None


@dataclass(slots=True)
class EncodedEvents:
    """Events as they are stored, one row each: headers HEADER [n], and the text behind each header."""

    headers: npt.NDArray[np.void]
    texts: list[bytes]

    def bytes_of(self, row: int) -> bytes:
        """One of them."""
        header: bytes = self.headers[row].tobytes()
        return header + self.texts[row]


def together(parts: Sequence[EncodedEvents]) -> EncodedEvents:
    """One after the other."""
    return EncodedEvents(
        np.concatenate([part.headers for part in parts]), list(chain.from_iterable(part.texts for part in parts))
    )


def encoded(enriched: EnrichedEvents, chosen: Integers) -> EncodedEvents:
    """The chosen events.

    Headers are made column by column, so that only id and device cost Python objects: 0.3 us per event, an object and
    its JSON 1.3 us."""
    places = chosen.tolist()
    ids = [enriched.event_ids[i] for i in places]
    devices = [enriched.events[i].device for i in places]
    told = ["" if device is None else device for device in devices] if None in devices else devices
    texts = [(event_id + device).encode() for event_id, device in zip(ids, told, strict=True)]
    headers = np.empty(len(places), _COLUMNS)
    headers["offset"] = enriched.offsets[chosen]
    headers["event_ts_us"] = enriched.event_ts_us[chosen]
    headers["duration_ms"] = enriched.duration_ms[chosen]
    headers["percentage"] = enriched.percentages[chosen]
    headers["type"] = enriched.types[chosen]
    headers["anomalies"] = enriched.anomaly_bits[chosen]
    encoded_ids = ids if "".join(ids).isascii() else [event_id.encode() for event_id in ids]
    id_bytes = np.fromiter(map(len, encoded_ids), np.int64, len(ids))
    headers["id_bytes"] = id_bytes
    device_bytes = np.fromiter(map(len, texts), np.int64, len(texts)) - id_bytes
    if None in devices:
        device_bytes[[device is None for device in devices]] = _NULL_DEVICE
    headers["device_bytes"] = device_bytes
    return EncodedEvents(headers.view(HEADER), texts)


def decoded(stored: bytes) -> list[RecentEvent]:
    """The events in these joined bytes, as they lie there."""
    events, place = [], 0
    while place < len(stored):
        offset, event_ts_us, duration_ms, percentage, code, anomalies, id_bytes, device_bytes = _HEADER.unpack_from(
            stored, place
        )
        ids = place + _HEADER.size
        devices = ids + id_bytes
        place = devices + (0 if device_bytes == _NULL_DEVICE else device_bytes)
        events.append(
            RecentEvent(
                offset=offset,
                event_ts_us=event_ts_us,
                duration_ms=None if duration_ms < 0 else duration_ms,
                percentage=None if percentage < 0 else percentage,
                type=code,
                anomalies=anomalies,
                event_id=stored[ids:devices].decode(),
                device=None if device_bytes == _NULL_DEVICE else stored[devices:place].decode(),
            )
        )
    return events
