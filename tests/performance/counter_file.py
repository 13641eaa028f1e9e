"""A number in a file that one process writes and another reads, at the cost of a memory access."""

import mmap
from pathlib import Path
from struct import Struct

_NUMBER = Struct("<q")


class CounterFile:
    """int64 in a mapped file. One writer; a missing file begins at 0."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(_NUMBER.pack(0))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _NUMBER.size)

    @property
    def value(self) -> int:
        return int(_NUMBER.unpack_from(self._map)[0])

    @value.setter
    def value(self, number: int) -> None:
        _NUMBER.pack_into(self._map, 0, number)

    def add(self, number: int) -> None:
        self.value += number
