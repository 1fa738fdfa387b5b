"""What a model consists of: one file, or those of a repository; and whether a receipt already answers for it."""

from dataclasses import dataclass, replace
from pathlib import Path

from provisioning import digests, hub, layout
from provisioning.catalogue import Entry
from provisioning.digests import Digest
from provisioning.errors import BadHash, ProvisioningError
from provisioning.fetch import Fetcher
from provisioning.receipts import ProvenFile, Receipt
from provisioning.wish import Wish


@dataclass(frozen=True, slots=True)
class Basket:
    """The files that a model consists of, and the address that receipts name, pinned where it can be."""

    url: str
    wishes: tuple[Wish, ...]

    @property
    def size(self) -> int | None:
        """Bytes in all; None while one file's size is unknown."""
        sizes = [wish.size for wish in self.wishes]
        return None if None in sizes else sum(size or 0 for size in sizes)


def demanded(entry: Entry) -> str | None:
    """Say what the catalogue demands, for comparison with a receipt later: a hash, or a repository's address."""
    if hub.is_hub_address(entry.download_url):
        return f"{entry.download_url}#{entry.hash or ''}"
    return str(digests.parse(entry.hash)) if entry.hash else None


def receipt_answers(receipt: Receipt, entry: Entry) -> bool:
    """Tell whether what a receipt proves is what the catalogue asks for today."""
    try:
        path, wanted = layout.relative_path(entry.save_path), demanded(entry)
    except ProvisioningError:
        return False
    if hub.is_hub_address(entry.download_url):
        return receipt.catalogue_hash == wanted and all(Path(file.path).is_relative_to(path) for file in receipt.files)
    digest = digests.parse(wanted) if wanted else None
    return any(file.path == path.as_posix() and proves(receipt, file, digest) for file in receipt.files)


def proves(receipt: Receipt, file: ProvenFile, digest: Digest | None) -> bool:
    """Tell whether a receipt's file is what a digest demands; without one, being proved by anything is enough."""
    if digest is None or receipt.catalogue_hash == str(digest):
        return True
    return digest.matches(digests.parse(file.hash))


def of(entry: Entry, fetcher: Fetcher) -> Basket:
    """Find out which files a model consists of; for a repository the hub is asked.

    Raises `EntryError`, and for repositories what the hub answers instead.
    """
    digest = digests.parse(entry.hash) if entry.hash else None
    plain = Wish(
        model_id=entry.id,
        url=entry.download_url,
        path=layout.relative_path(entry.save_path),
        digest=digest,
        size=entry.size_bytes,
        auth_required=entry.auth_required,
        auth_provider=entry.auth_provider,
    )
    if not hub.is_hub_address(entry.download_url):
        return Basket(entry.download_url, (plain,))
    repository = hub.Repository.parse(entry.download_url)
    whole = repository.path is None
    if whole and digest is not None:
        raise BadHash(
            f"{entry.download_url} is a whole repository, hash {entry.hash!r} can prove one file only; remove it"
        )
    snapshot = fetcher.snapshot(plain, repository)
    wishes = tuple(
        replace(
            plain,
            url=file.url,
            path=layout.relative_path(hub.save_path_of(file, repository, entry.save_path)),
            digest=digest or file.digest,
            size=file.size,
        )
        for file in snapshot.files
    )
    return Basket(f"hf://{repository.id}@{snapshot.commit}/{repository.path or ''}".rstrip("/"), wishes)
