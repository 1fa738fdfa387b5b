"""Hashes as the catalogue writes them, and how bytes are held against them."""

import hashlib
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from provisioning.errors import BadHash, Stopped

HEX = frozenset("0123456789abcdef")
LENGTHS = {"crc32": 8, "autov2": 10, "md5": 32, "sha1": 40, "sha256": 64, "sha512": 128}
"""What a catalogue may name. `gitsha1`, Git's hash of a file with its length before it, comes from hubs only."""
BY_LENGTH = {8: "crc32", 10: "autov2", 32: "md5", 40: "sha1", 64: "sha256"}
BLOCK = 1 << 20
"""Bytes hashed at a time: small enough to stay in the processor's cache, large enough to release the GIL for long."""


class Hasher(Protocol):
    """What hashlib's objects, and ours for CRC32, have in common."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Take the next bytes."""

    def hexdigest(self) -> str:
        """Return the digest of all bytes so far."""


@dataclass(frozen=True, slots=True)
class Digest:
    """An algorithm and what it must give, in lower case hex."""

    algorithm: str
    hex: str

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"

    @property
    def computed_by(self) -> str:
        """Name the algorithm that has to run: AutoV2 is the head of a SHA-256."""
        return "sha256" if self.algorithm == "autov2" else self.algorithm

    def matches(self, found: "Digest") -> bool:
        """Tell whether a computed digest is the one that is expected."""
        return found.algorithm == self.computed_by and found.hex[: len(self.hex)] == self.hex


def parse(text: str) -> Digest:
    """Read ``sha256:<hex>`` or bare hex whose length names the algorithm.

    8 digits are CRC32, 10 Civitai's AutoV2, 32 MD5, 40 SHA-1, 64 SHA-256. Raises `BadHash`.
    """
    name, colon, digits = text.strip().lower().rpartition(":")
    algorithm = name.replace("-", "") if colon else BY_LENGTH.get(len(digits), "")
    if LENGTHS.get(algorithm) != len(digits) or not HEX.issuperset(digits):
        raise BadHash(
            f"hash {text!r} is none that we can check: expected sha256:<64 hex digits>, or 8 (CRC32), 10 (AutoV2), "
            "32 (MD5), 40 (SHA-1) or 64 (SHA-256) hex digits; correct it in the catalogue",
        )
    return Digest(algorithm, digits)


class _Crc32:
    """CRC32 behind hashlib's interface."""

    def __init__(self) -> None:
        self.value = 0

    def update(self, data: bytes | memoryview, /) -> None:
        self.value = zlib.crc32(data, self.value)

    def hexdigest(self) -> str:
        return f"{self.value:08x}"


def hasher(algorithm: str, size: int | None = None) -> Hasher:
    """Return a fresh hasher for an algorithm of `LENGTHS`, or for `gitsha1`, which needs the file's size."""
    if algorithm == "crc32":
        return _Crc32()
    if algorithm == "gitsha1":
        return hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    # MD5 and SHA-1 name files here, they guard no secret; some hardened builds forbid them otherwise.
    return hashlib.new("sha256" if algorithm == "autov2" else algorithm, usedforsecurity=False)


def of_file(path: Path, algorithms: set[str], stop: threading.Event | None = None) -> dict[str, Digest]:
    """Read a file once and return its digest by each algorithm. Raises `Stopped` when asked to stop."""
    size = path.stat().st_size
    hashers = {name: hasher(name, size) for name in sorted(algorithms)}
    with path.open("rb", buffering=0) as file:
        for block in blocks(file):
            if stop is not None and stop.is_set():
                raise Stopped
            for each in hashers.values():
                each.update(block)
    return {name: Digest(name, each.hexdigest()) for name, each in hashers.items()}


def blocks(file: BinaryIO) -> Iterator[bytes]:
    """Yield the rest of a file, block by block."""
    while block := file.read(BLOCK):
        yield block
