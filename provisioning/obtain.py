"""One model, from its catalogue entry to its receipt."""

import logging
import stat
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from provisioning import digests, disk, formats, layout, quarantine, receipts
from provisioning.board import Board
from provisioning.catalogue import Entry
from provisioning.digests import Digest
from provisioning.errors import (
    CatalogueHashWrong,
    CorruptTransit,
    HashMismatch,
    ProvisioningError,
    Stopped,
    UnsafePath,
    WrongSize,
)
from provisioning.events import notice
from provisioning.fetch import Arrival, Fetcher, Watcher, Wish, discard
from provisioning.locks import held
from provisioning.receipts import ProvenFile, Receipt
from provisioning.settings import Settings
from provisioning.status import State
from provisioning.transport import without_query

log = logging.getLogger(__name__)

TRIES = 2
"""Wrong bytes may be an accident of the way; the same wrong bytes twice are not."""


def wishes_of(entry: Entry) -> list[Wish]:
    """Return the files that a model consists of. Raises `EntryError`."""
    return [
        Wish(
            model_id=entry.id,
            url=entry.download_url,
            path=layout.relative_path(entry.save_path),
            digest=digests.parse(entry.hash) if entry.hash else None,
            size=entry.size_bytes,
            auth_required=entry.auth_required,
            auth_provider=entry.auth_provider,
        ),
    ]


def receipt_answers(receipt: Receipt, entry: Entry) -> bool:
    """Tell whether what a receipt proves is what the catalogue asks for today."""
    try:
        wishes = wishes_of(entry)
    except ProvisioningError:
        return False
    proved = {file.path: file for file in receipt.files}
    return all(
        wish.path.as_posix() in proved and _proves(receipt, proved[wish.path.as_posix()], wish) for wish in wishes
    )


def _proves(receipt: Receipt, file: ProvenFile, wish: Wish) -> bool:
    if wish.digest is None or receipt.catalogue_hash == str(wish.digest):
        return True
    return wish.digest.matches(digests.parse(file.hash))


class Obtainer:
    """Brings models home, one call a model. Several calls may run at once, in threads and in processes."""

    def __init__(self, settings: Settings, fetcher: Fetcher, board: Board, stop: threading.Event) -> None:
        self.settings = settings
        self.models_dir = settings.models_dir
        self.fetcher = fetcher
        self.board = board
        self.stop = stop

    def obtain(self, entry: Entry, priority: int) -> Receipt:
        """Prove a model, whatever that takes: nothing, a hash of what lies there, or a download.

        The receipt is written last. Raises `ProvisioningError`; then there is no receipt, and no file at a final
        path that is known to be wrong.
        """
        try:
            wishes = wishes_of(entry)
            files = [self._one_file(wish, priority) for wish in wishes]
            receipt = Receipt(
                model_id=entry.id,
                url=without_query(entry.download_url),
                files=tuple(files),
                dependencies=entry.dependencies,
                verified_at=datetime.now(UTC).isoformat(),
                catalogue_hash=str(wishes[0].digest) if entry.hash else None,
            )
            receipts.save(self.models_dir, receipt)
        except OSError as error:
            raise disk.named(error, self.models_dir / entry.save_path) from error
        return receipt

    def _one_file(self, wish: Wish, priority: int) -> ProvenFile:
        target = layout.place(self.models_dir, wish.path)
        lock = layout.lock_path(self.models_dir, wish.path.as_posix())

        def on_wait() -> None:
            self.board.tell(notice(f"another process is bringing {wish.path}", model_id=wish.model_id))

        with held(lock, self.stop, on_wait):
            known = self._already_proved(wish)
            if known is not None:
                return known
            if wish.digest is None:
                wish = self._ask_origin(wish, priority)
            if target.exists() or target.is_symlink():
                found = self._judge(wish, target)
                if found is not None:
                    return found
            digest = self._download(wish, target, priority)
            return ProvenFile.of(self.models_dir, wish.path, digest)

    def _already_proved(self, wish: Wish) -> ProvenFile | None:
        """Return what a receipt says about this file, ours or that of another model or process."""
        for receipt in receipts.load_all(self.models_dir).values():
            for file in receipt.files:
                same = file.path == wish.path.as_posix() and _proves(receipt, file, wish)
                if same and receipts.file_is_intact(self.models_dir, file):
                    return file
        return None

    def _ask_origin(self, wish: Wish, priority: int) -> Wish:
        """Take the origin's own hash where the catalogue has none."""
        offer = self.fetcher.offer(wish, priority)
        return replace(wish, digest=offer.sha256, size=wish.size if offer.size is None else offer.size)

    def _judge(self, wish: Wish, target: Path) -> ProvenFile | None:
        """Hash a file that lies at the final path without a receipt: adopt it, or take it away."""
        if target.is_dir() and not target.is_symlink():
            raise UnsafePath(f"save_path {str(wish.path)!r} is a folder on this machine, expected a file or nothing")
        self._verifying(wish.model_id)
        if wish.digest is not None and stat.S_ISREG(target.lstat().st_mode):
            before = ProvenFile.of(self.models_dir, wish.path, "")
            if wish.size in {None, before.size}:
                found = digests.of_file(target, {"sha256", wish.digest.computed_by}, self.stop)
                intact = receipts.file_is_intact(self.models_dir, before)
                if intact and wish.digest.matches(found[wish.digest.computed_by]):
                    formats.check(target, wish.path.name)
                    return replace(before, hash=str(found["sha256"]))
        message = f"the file at {wish.path} is not the one that the catalogue describes; it was moved away"
        self.board.tell(notice(message, model_id=wish.model_id, level="warning"))
        quarantine.take_away(self.models_dir, target, wish.path.as_posix())
        return None

    def _download(self, wish: Wish, target: Path, priority: int) -> str:
        """Fetch, compare, and only then let the file appear under its name. Returns its digest."""
        part = layout.part_of(target)
        watcher = Watcher(
            progress=lambda done, total: self.board.progress(wish.model_id, done, total),
            arrived=lambda: self._verifying(wish.model_id),
        )
        wrong: list[Digest] = []
        while True:
            self.board.move(wish.model_id, State.DOWNLOADING)
            target.parent.mkdir(parents=True, exist_ok=True)
            layout.place(self.models_dir, wish.path)
            arrival = self.fetcher.fetch(wish, part, priority, watcher)
            self._verifying(wish.model_id)
            if self.stop.is_set():
                raise Stopped
            if wish.digest is None or wish.digest.matches(arrival.digests[wish.digest.computed_by]):
                break
            wrong.append(arrival.digests[wish.digest.computed_by])
            self._refuse(wish, part, arrival, wrong)
        if wish.size is not None and arrival.size != wish.size:
            quarantine.take_away(self.models_dir, part, wish.path.as_posix())
            discard(part)
            raise WrongSize(f"{wish.path} has {arrival.size} bytes, the catalogue says {wish.size}")
        try:
            formats.check(part, wish.path.name)
        except ProvisioningError:
            quarantine.take_away(self.models_dir, part, wish.path.as_posix())
            discard(part)
            raise
        part.replace(target)
        layout.sync_folder(target.parent)
        layout.journal_of(part).unlink(missing_ok=True)
        return str(arrival.digests["sha256"])

    def _refuse(self, wish: Wish, part: Path, arrival: Arrival, wrong: list[Digest]) -> None:
        """Throw wrong bytes away for one more try, or say which side is wrong."""
        expected, found = wish.digest, wrong[-1]
        upstream_agrees = arrival.offer.sha256 is not None and arrival.offer.sha256 == arrival.digests["sha256"]
        story = f"{wish.path} from {without_query(wish.url)} has {found}, the catalogue says {expected}"
        if len(wrong) < TRIES and not upstream_agrees:
            self.board.tell(notice(f"{story}; fetching it once more", model_id=wish.model_id, level="warning"))
            discard(part)
            return
        refuge = quarantine.take_away(self.models_dir, part, wish.path.as_posix())
        discard(part)
        kept = f"the bytes are kept at {refuge}"
        if upstream_agrees:
            raise CatalogueHashWrong(f"{story}; they agree with the origin's own hash: correct the catalogue; {kept}")
        if len(set(wrong)) > 1:
            raise CorruptTransit(f"{story}, and {wrong[0]} the time before; the network or a proxy damages it; {kept}")
        raise HashMismatch(f"{story}, twice the same; correct the hash or download_url in the catalogue; {kept}")

    def _verifying(self, model_id: str) -> None:
        self.board.move(model_id, State.VERIFYING)
