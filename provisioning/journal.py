"""What is proved to be in a part, so that a killed download goes on instead of starting again.

The journal lies beside the part: one JSON line that says which content it is about, then records of sixteen
bytes: segment, valid bytes from its start, their CRC32, and the CRC32 of the record itself. A record is
appended after its bytes were written. After kill -9 the page cache is whole and every record holds; after a
power loss the checksums tell which do.
"""

import json
import logging
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

log = logging.getLogger(__name__)

RECORD = struct.Struct("<IIII")
CHECK_BLOCK = 1 << 20


class Journal:
    """An open journal. Appending is thread-safe: each record is one write to a file opened with O_APPEND."""

    def __init__(self, path: Path, identity: Mapping[str, object]) -> None:
        self.path = path
        self.identity = dict(identity)
        self._descriptor = -1

    def open(self) -> dict[int, tuple[int, int]]:
        """Open the journal and return what it says: for each segment its valid bytes and their checksum.

        A journal about other content, or an unreadable one, is begun anew.
        """
        known = self._read()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | (0 if known else os.O_TRUNC)
        self._descriptor = os.open(self.path, flags, 0o644)
        if not known:
            os.write(self._descriptor, json.dumps(self.identity).encode() + b"\n")
        elif (torn := self.path.stat().st_size - self._head_size()) % RECORD.size:
            os.truncate(self._descriptor, self.path.stat().st_size - torn % RECORD.size)
        return known

    def _head_size(self) -> int:
        with self.path.open("rb") as file:
            return len(file.readline())

    def _read(self) -> dict[int, tuple[int, int]]:
        try:
            with self.path.open("rb") as file:
                if json.loads(file.readline()) != self.identity:
                    return {}
                body = file.read()
        except (OSError, ValueError):
            return {}
        records: dict[int, tuple[int, int]] = {}
        for start in range(0, len(body) - RECORD.size + 1, RECORD.size):
            segment, length, checksum, own = RECORD.unpack_from(body, start)
            if own == zlib.crc32(body[start : start + 12]):
                records[segment] = (length, checksum)
        return records

    def record(self, segment: int, length: int, checksum: int) -> None:
        """Note that so many bytes from the start of a segment are written."""
        head = RECORD.pack(segment, length, checksum, 0)[:12]
        if self._descriptor >= 0:
            os.write(self._descriptor, head + struct.pack("<I", zlib.crc32(head)))

    def close(self) -> None:
        """Close the file; the journal stays for the next start."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def discard(self) -> None:
        """Forget everything."""
        self.close()
        self.path.unlink(missing_ok=True)


def checksum_of(descriptor: int, start: int, length: int) -> int:
    """Return the CRC32 of a stretch of a file, or of what there is of it."""
    value, end = 0, start + length
    while start < end and (block := os.pread(descriptor, min(CHECK_BLOCK, end - start), start)):
        value = zlib.crc32(block, value)
        start += len(block)
    return value if start >= end else ~value & 0xFFFFFFFF
