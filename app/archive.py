"""The file of a backup: a tar with the database, the key of its secrets, the pictures, and a manifest that proves them.

The manifest stands at the end, as it has the SHA-256 of everything before it. Nothing is compressed: pictures are.
"""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

FORMAT = 1
MANIFEST = "manifest.json"
DATABASE = "db/imagefleet.db"
KEY = "db/secret.key"
PICTURES = "images"
CHUNK = 1 << 20


class BackupError(Exception):
    """It could not be backed up or brought back; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What a file of a backup must be."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup holds, and what made it."""

    version: str
    """Of imagefleet."""
    revision: str
    """Of the database's schema."""
    made_at: str
    with_pictures: bool
    files: Mapping[str, Proof] = field(default_factory=dict)
    lost: tuple[str, ...] = ()
    """Pictures that have a row and that the store had lost before."""

    def to_json(self) -> bytes:
        """Write it."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "Manifest":
        """Read it; raises BackupError."""
        try:
            told: dict[str, Any] = json.loads(data)
            if told.pop("format") != FORMAT:
                raise BackupError("it was made by a newer version of imagefleet: update this one first")
            files = {name: Proof(**proof) for name, proof in told.pop("files").items()}
            return cls(**{**told, "files": files, "lost": tuple(told["lost"])})
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise BackupError(f"its manifest cannot be read: {exc}") from exc


class Writer:
    """Writes a backup, whole or not at all: under another name first."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_name(f"{path.name}.part")
        # It holds prompts and the key of the webhooks' secrets: nobody else is to read it.
        self._file = os.fdopen(os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115  # closed by finish
        self.files: dict[str, Proof] = {}

    def add(self, name: str, path: Path) -> None:
        """Take a file in, and prove it; raises FileNotFoundError."""
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            hashed = _Hashed(file)
            self._tar.addfile(_member(name, size), hashed)
        self.files[name] = Proof(size, hashed.digest.hexdigest())

    def finish(self, manifest: Manifest) -> None:
        """Write the manifest, and give the file its name."""
        data = manifest.to_json()
        info = _member(MANIFEST, len(data))
        self._tar.addfile(info, io.BytesIO(data))
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._part.replace(self._path)

    def discard(self) -> None:
        """Leave nothing behind."""
        self._file.close()
        self._part.unlink(missing_ok=True)


def _member(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o600
    return info


class _Hashed:
    """A file that is hashed while it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.digest.update(data)
        return data


def unpack(path: Path, folder: Path) -> Manifest:
    """Unpack a backup into an empty folder, and hold every file against the manifest; raises BackupError."""
    found: dict[str, Proof] = {}
    manifest: Manifest | None = None
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                source = tar.extractfile(member)
                if source is None:
                    raise BackupError(f"{path} holds {member.name!r}, which is no file: it is no backup of ours")
                if member.name == MANIFEST:
                    manifest = Manifest.from_json(source.read())
                else:
                    found[member.name] = _unpacked(source, _inside(folder, member.name))
    except (tarfile.TarError, EOFError) as exc:
        raise BackupError(f"{path} is broken or no backup: {exc}; take another one") from exc
    except OSError as exc:
        raise BackupError(f"{path} could not be unpacked: {exc.strerror or exc}") from exc
    if manifest is None:
        raise BackupError(f"{path} has no {MANIFEST}: it is incomplete, or no backup; take another one")
    _compare(path, manifest, found)
    return manifest


def _inside(folder: Path, name: str) -> Path:
    """Return where a file goes, which is nowhere but in the folder."""
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or parts.parts[0] not in {"db", PICTURES}:
        raise BackupError(f"the backup holds {name!r}, which would lie outside of its folder: it is no backup of ours")
    target = folder / parts
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _unpacked(source: IO[bytes], target: Path) -> Proof:
    digest, size = hashlib.sha256(), 0
    with target.open("wb") as file:
        while data := source.read(CHUNK):
            digest.update(data)
            size += len(data)
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return Proof(size, digest.hexdigest())


def _compare(path: Path, manifest: Manifest, found: Mapping[str, Proof]) -> None:
    wrong = sorted(name for name in {*found, *manifest.files} if found.get(name) != manifest.files.get(name))
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise BackupError(f"{path} is damaged: {wrong[0]}{more} is not what its manifest says; take another one")
