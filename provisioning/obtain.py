"""One model, from its catalogue entry to its receipt."""

import logging
import stat
import threading
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from provisioning import budget, digests, disk, formats, hubcache, layout, local, quarantine, receipts, shopping, twins
from provisioning.board import Board
from provisioning.catalogue import Entry
from provisioning.custody import RECEIPTS_LOCK
from provisioning.digests import Digest
from provisioning.errors import (
    CatalogueHashWrong,
    CorruptTransit,
    DiskBroken,
    GoneUpstream,
    HashMismatch,
    ProvisioningError,
    Stopped,
    UnsafePath,
    WrongSize,
)
from provisioning.events import notice
from provisioning.fetch import Fetcher, discard
from provisioning.locks import held
from provisioning.receipts import ProvenFile, Receipt
from provisioning.settings import Settings
from provisioning.shopping import Basket
from provisioning.status import State
from provisioning.transport import without_query
from provisioning.wish import Arrival, Watcher, Wish

log = logging.getLogger(__name__)

TRIES = 2
"""Wrong bytes may be an accident of the way; the same wrong bytes twice are not."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Where one file stands among all files of its model, so that progress is the model's."""

    before: int
    total: int | None
    several: bool

    def of(self, done: int, total: int | None) -> tuple[int, int | None]:
        """Return the model's bytes from the file's."""
        return self.before + done, self.total if self.several else total


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
        basket = None
        try:
            basket = shopping.of(entry, self.fetcher)
            for _ in range(TRIES):
                receipt = twins.save(self.models_dir, self._prove(entry, basket, priority), self.stop)
                if receipt is not None:
                    return receipt
        except OSError as error:
            raise disk.named(error, self.models_dir / entry.save_path) from error
        finally:
            if self.fetcher.sharing and basket:
                self.fetcher.sharing.settle([wish.digest for wish in basket.wishes if wish.digest])
        raise DiskBroken(f"the files of {entry.id} were changed while they were proved; find out who writes there")

    def _prove(self, entry: Entry, basket: Basket, priority: int) -> Receipt:
        """Bring every file of a model, and say what was proved."""
        files: list[ProvenFile] = []
        for wish in basket.wishes:
            before = sum(file.size for file in files)
            files.append(self._one_file(wish, priority, Tally(before, basket.size, len(basket.wishes) > 1)))
        return Receipt(
            model_id=entry.id,
            url=without_query(basket.url),
            files=tuple(files),
            dependencies=entry.dependencies,
            verified_at=datetime.now(UTC).isoformat(),
            catalogue_hash=shopping.demanded(entry),
        )

    def _one_file(self, wish: Wish, priority: int, tally: Tally) -> ProvenFile:
        target = layout.place(self.models_dir, wish.path)
        lock = layout.lock_path(self.models_dir, wish.path.as_posix())

        def on_wait() -> None:
            self.board.tell(notice(f"another process is bringing {wish.path}", model_id=wish.model_id))

        with held(lock, self.stop, on_wait):
            known = self._already_proved(wish)
            if known is not None:
                return known
            if wish.digest is None and not local.is_local(wish.url):
                wish = self._ask_origin(wish, priority)
            if target.exists() or target.is_symlink():
                found = self._judge(wish, target)
                if found is not None:
                    return found
            budget.demand_writable(self.models_dir, wish.path)
            twin = twins.bring(self.models_dir, wish.path, wish.digest, self.stop) if wish.digest else None
            if twin is not None:
                return twin
            digest = self._pardoned(wish, target) or self._from_hub_cache(wish, target)
            digest = digest or self._download(wish, target, priority, tally)
            return ProvenFile.of(self.models_dir, wish.path, digest)

    def _already_proved(self, wish: Wish) -> ProvenFile | None:
        """Return what a receipt says about this file, ours or that of another model or process."""
        with held(layout.lock_path(self.models_dir, RECEIPTS_LOCK), self.stop):
            for receipt in receipts.load_all(self.models_dir).values():
                for file in receipt.files:
                    same = file.path == wish.path.as_posix() and shopping.proves(receipt, file, wish.digest)
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
                if wish.digest.matches(found[wish.digest.computed_by]):
                    # If it was changed while it was read, the receipt will not fit, and it is judged once more.
                    formats.check(target, wish.path.name)
                    return replace(before, hash=str(found["sha256"]))
        budget.demand_writable(self.models_dir, wish.path)
        self.board.was_wrong()
        message = f"the file at {wish.path} is not the one that the catalogue describes; it was moved away"
        self.board.tell(notice(message, model_id=wish.model_id, level="warning"))
        quarantine.take_away(self.models_dir, target, wish.path.as_posix())
        return None

    def _pardoned(self, wish: Wish, target: Path) -> str | None:
        """Take a file back from quarantine that the catalogue, corrected meanwhile, asks for. Returns its digest."""
        refused = quarantine.recall(self.models_dir, wish.path.as_posix())
        if refused is None or wish.digest is None or not any(wish.digest.matches(each) for each in refused.digests):
            return None
        self._verifying(wish.model_id)
        part = layout.part_of(target)
        discard(part)
        target.parent.mkdir(parents=True, exist_ok=True)
        refused.refuge.replace(part)
        found = digests.of_file(part, {"sha256", wish.digest.computed_by}, self.stop)
        if not wish.digest.matches(found[wish.digest.computed_by]) or wish.size not in {None, refused.size}:
            discard(part)
            return None
        self._install(wish, part, target)
        return str(found["sha256"])

    def _from_hub_cache(self, wish: Wish, target: Path) -> str | None:
        """Copy what huggingface_hub has fetched before, if its hash is right. Returns its digest."""
        source = hubcache.find(self.settings.hf_cache, wish.digest) if wish.digest else None
        if source is None:
            return None
        part = layout.part_of(target)
        self._verifying(wish.model_id)
        target.parent.mkdir(parents=True, exist_ok=True)
        here = replace(wish, url=f"file://{quote(str(source.absolute()))}")
        try:
            found = local.copy(here, part, Watcher(lambda _done, _total: None, lambda: None), self.stop).digests
        except (WrongSize, GoneUpstream, OSError):
            return None
        if not wish.digest or not wish.digest.matches(found[wish.digest.computed_by]):
            discard(part)
            return None
        self._install(wish, part, target)
        return str(found["sha256"])

    def _download(self, wish: Wish, target: Path, priority: int, tally: Tally) -> str:
        """Fetch, compare, and only then let the file appear under its name. Returns its digest."""
        part = layout.part_of(target)
        watcher = Watcher(
            progress=lambda done, total: self.board.progress(wish.model_id, *tally.of(done, total)),
            arrived=lambda: self._verifying(wish.model_id),
        )
        wish = replace(wish, refused=quarantine.lately(self.models_dir, wish.path.as_posix()))
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
            self.board.was_wrong()
            if arrival.from_neighbours and self.fetcher.sharing:
                message = f"{wish.path} came together wrong from neighbours; fetching it from its origin alone"
                self.board.tell(notice(message, model_id=wish.model_id, level="warning"))
                self.fetcher.sharing.distrust(wish.digest)
                discard(part)
                continue
            wrong.append(arrival.digests[wish.digest.computed_by])
            self._refuse(wish, part, arrival, wrong)
        if wish.size is not None and arrival.size != wish.size:
            self.board.was_wrong()
            quarantine.take_away(self.models_dir, part, wish.path.as_posix())
            discard(part)
            raise WrongSize(f"{wish.path} has {arrival.size} bytes, the catalogue says {wish.size}")
        self._install(wish, part, target)
        return str(arrival.digests["sha256"])

    def _install(self, wish: Wish, part: Path, target: Path) -> None:
        """Let a proven part appear under its final name, if it can be a model at all."""
        try:
            formats.check(part, wish.path.name)
        except ProvisioningError:
            quarantine.take_away(self.models_dir, part, wish.path.as_posix())
            discard(part)
            raise
        part.replace(target)
        layout.sync_folder(target.parent)
        layout.journal_of(part).unlink(missing_ok=True)

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
        if refuge is not None:
            quarantine.note(refuge, arrival.digests.values(), arrival.offer.etag, arrival.size)
        kept = f"the bytes are kept at {refuge}"
        if upstream_agrees:
            raise CatalogueHashWrong(f"{story}; they agree with the origin's own hash: correct the catalogue; {kept}")
        if len(set(wrong)) > 1:
            raise CorruptTransit(f"{story}, and {wrong[0]} the time before; the network or a proxy damages it; {kept}")
        raise HashMismatch(f"{story}, twice the same; correct the hash or download_url in the catalogue; {kept}")

    def _verifying(self, model_id: str) -> None:
        self.board.move(model_id, State.VERIFYING)
