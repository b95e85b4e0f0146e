"""Prepared answers in a file that is mapped into memory: nothing is read before it is asked for.

Little-endian. A header, which also says how long the file is; a hash table of `slots` record
offsets (0 is a free slot; open addressing with linear probing, at most half full); then one record
a customer:

    u16 length of the id | `top_k` x u32 where item i ends, counted from the text's begin |
    id (UTF-8) | text: `{"customer_id":"C1","recommendations":[ITEM,ITEM,...]`

A question for fewer products takes the text up to that item's end, and closes it. The table of
`tasks` that a customer belongs to, and the slot that it begins to look at, follow from the CRC-32
of its id. The file's own checksum is in the manifest of the prepared answers; it is verified before
the file is mapped.
"""

from __future__ import annotations

import mmap
import struct
import sys
import zlib
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path

from serving.errors import ArtifactMismatch
from serving.rendering import opened

MAGIC = b"TURNOUT\x01"
MOST_ITEMS = 100
_HEADER = struct.Struct("<8s32sIIIxxxxQQQ")
_LENGTH = struct.Struct("<H")
_END = struct.Struct("<I")
LONGEST_ID_BYTES = 0xFFFF
_CLOSING = b"]"


def shard_of(customer_id: str, shards: int) -> int:
    """Return which of `shards` tables holds a customer."""
    return zlib.crc32(customer_id.encode()) % shards


class TableWriter:
    """Writes one shard; the same answers in the same order give the same bytes."""

    def __init__(
        self, path: Path, digest: str, shard: int, shards: int, top_k: int, most_customers: int
    ) -> None:
        """Begin a table of answers of `top_k` products; `digest` is the artifact's."""
        self._header = (MAGIC, _sha256(digest), shard, shards, top_k)
        self._shards = shards
        self.customers = 0
        self._slots = array("Q", bytes(8 << max(4, (2 * most_customers - 1).bit_length())))
        self._file = path.open("wb")
        self._at = self._file.seek(_HEADER.size + 8 * len(self._slots))

    def add(self, customer_id: str, items: Sequence[bytes]) -> None:
        """Append one customer, at most once; `items` are `top_k` rendered products."""
        key, begin = customer_id.encode(), opened(customer_id)
        ends, end = [], len(begin) - 1
        for item in items:
            end += 1 + len(item)
            ends.append(_END.pack(end))
        ends[-1] = _END.pack(end + len(_CLOSING))
        parts = (_LENGTH.pack(len(key)), *ends, key, begin, b",".join(items), _CLOSING)
        slots, mask = self._slots, len(self._slots) - 1
        slot = zlib.crc32(key) // self._shards & mask
        while slots[slot]:
            slot = (slot + 1) & mask
        slots[slot] = self._at
        self._at += self._file.write(b"".join(parts))
        self.customers += 1

    def close(self) -> None:
        """Write header and slots: before this the file is no table."""
        if sys.byteorder == "big":
            self._slots.byteswap()
        self._file.seek(0)
        self._file.write(_HEADER.pack(*self._header, self.customers, len(self._slots), self._at))
        self._file.write(self._slots.tobytes())
        self._file.close()


class Table:
    """One mapped shard; safe to use from many threads and processes."""

    def __init__(self, path: Path) -> None:
        """Map the file; ArtifactMismatch when it is no such table or is cut short."""
        with path.open("rb") as file:
            try:
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except ValueError:
                raise ArtifactMismatch(f"{path.name} is empty") from None
        try:
            header = _HEADER.unpack_from(self._data)
        except struct.error:
            raise ArtifactMismatch(f"{path.name} is too short for a table") from None
        magic, self.digest, self.shard, self.shards, self.top_k, self.customers, *rest = header
        slots, length = rest
        begin, end = _HEADER.size, _HEADER.size + 8 * slots
        if magic != MAGIC or not self.shards or not slots or slots & (slots - 1):
            raise ArtifactMismatch(f"{path.name} is not a table of prepared answers")
        if len(self._data) != length or end > length:
            raise ArtifactMismatch(
                f"{path.name} has {len(self._data)} bytes, and its header says {length}"
            )
        self.parts = self._data, _unsigned(memoryview(self._data)[begin:end]), slots - 1


class Tables:
    """All shards of a model's prepared answers."""

    def __init__(self, tables: Iterable[Table], digest: str) -> None:
        """Take every shard of one set; ArtifactMismatch unless they are all, and this model's.

        `digest` is the artifact's, "sha256:" and hex.
        """
        self._tables = sorted(tables, key=lambda table: table.shard)
        numbers = [(table.shard, table.shards) for table in self._tables]
        if numbers != [(shard, len(numbers)) for shard in range(len(numbers))] or not numbers:
            raise ArtifactMismatch(f"the prepared answers are not one whole set: {numbers}")
        if {table.digest for table in self._tables} != {_sha256(digest)}:
            raise ArtifactMismatch("the prepared answers are another model's")
        if len({table.top_k for table in self._tables}) != 1:
            raise ArtifactMismatch("the prepared answers are of different top_k")
        self.top_k = self._tables[0].top_k
        self.customers = sum(table.customers for table in self._tables)
        self._parts = [table.parts for table in self._tables]

    def find(self, customer_ids: Sequence[str], k: int) -> list[bytes | None]:
        """Return each customer's answer with the first `k` items; None where not prepared.

        One loop without calls of our own: a batch has a thousand customers.
        """
        if k > self.top_k:
            return [None] * len(customer_ids)
        parts, count = self._parts, len(self._parts)
        crc32, length_at, end_at = zlib.crc32, _LENGTH.unpack_from, _END.unpack_from
        to_end, to_key = _LENGTH.size + _END.size * (k - 1), _LENGTH.size + _END.size * self.top_k
        closing = b"" if k == self.top_k else _CLOSING
        found: list[bytes | None] = []
        for customer_id in customer_ids:
            key = customer_id.encode()
            crc = crc32(key)
            data, slots, mask = parts[crc % count]
            slot = crc // count & mask
            while at := slots[slot]:
                begin = at + to_key
                text = begin + len(key)
                if data[begin:text] == key and length_at(data, at)[0] == len(key):
                    found.append(data[text : text + end_at(data, at + to_end)[0]] + closing)
                    break
                slot = slot + 1 & mask
            else:
                found.append(None)
        return found


def _unsigned(view: memoryview) -> Sequence[int]:
    """Return little-endian 64-bit numbers, in place where the machine is little-endian too."""
    if sys.byteorder == "little":
        return view.cast("Q")
    numbers = array("Q", view.tobytes())
    numbers.byteswap()
    return numbers


def _sha256(digest: str) -> bytes:
    return bytes.fromhex(digest.removeprefix("sha256:"))
