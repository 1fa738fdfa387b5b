"""``file://``: models that lie on a disk or a network share already are copied, hashed and proved like any other."""

import os
from pathlib import Path
from threading import Event
from urllib.parse import unquote, urlsplit

from provisioning import digests, disk
from provisioning.digests import BLOCK
from provisioning.errors import BadEntry, GoneUpstream, NoHash, Stopped, WrongSize
from provisioning.origin import Offer
from provisioning.wish import Arrival, Watcher, Wish

SCHEME = "file://"


def is_local(url: str) -> bool:
    """Tell whether an address names a file of this machine."""
    return url.startswith(SCHEME)


def copy(wish: Wish, part: Path, watcher: Watcher, stop: Event) -> Arrival:
    """Copy a file into its part and hash it on the way.

    Raises what `offer` raises, `Stopped`, `DiskFull` and `OSError`.
    """
    size = offer(wish).size or 0
    source = path_of(wish.url)
    assert wish.digest is not None
    disk.demand(part.parent, size - disk.allocated_bytes(part), wish.path.name)
    hashers = {name: digests.hasher(name, size) for name in {"sha256", wish.digest.computed_by}}
    done = 0
    watcher.progress(done, size)
    with source.open("rb", buffering=0) as reading, part.open("wb") as writing:
        while block := reading.read(BLOCK):
            if stop.is_set():
                raise Stopped
            writing.write(block)
            for hasher in hashers.values():
                hasher.update(block)
            done += len(block)
            watcher.progress(done, size)
        watcher.arrived()
        writing.flush()
        os.fsync(writing.fileno())
    found = {name: digests.Digest(name, hasher.hexdigest()) for name, hasher in hashers.items()}
    return Arrival(done, found, Offer(size, ranges=False, etag=None, sha256=None))


def offer(wish: Wish) -> Offer:
    """Look whether a file is there to be copied.

    A hash is demanded here even where the operator allows unverified models: a catalogue must not be able to
    collect whatever lies on a machine. Raises `NoHash`, `GoneUpstream`, `WrongSize`, `BadEntry`.
    """
    source = path_of(wish.url)
    if wish.digest is None:
        raise NoHash(f"{wish.url} has no hash in the catalogue; files of this machine are taken by their hash only")
    if not source.is_file():
        raise GoneUpstream(f"{source} is not on this machine, or no file; check download_url and what is mounted")
    size = source.stat().st_size
    if wish.size not in {None, size}:
        raise WrongSize(f"{source} has {size} bytes, the catalogue says {wish.size}; correct size_bytes there")
    return Offer(size, ranges=False, etag=None, sha256=None)


def path_of(url: str) -> Path:
    """Return the file that an address names. Raises `BadEntry` for addresses of other hosts."""
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.netloc not in {"", "localhost"} or not path.startswith("/") or "\0" in path:
        raise BadEntry(f"{url!r} names no file of this machine; expected file:///folder/model.safetensors")
    return Path(path)
