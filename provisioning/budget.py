"""Room: what will not fit is told before its first byte, and old models make way where the operator allows it."""

import logging
import shutil
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from provisioning import custody, disk, layout, receipts, status, twins, uses
from provisioning.catalogue import Entry
from provisioning.errors import DiskFull, ReadOnly, UnsafePath
from provisioning.locks import held
from provisioning.orders import Order
from provisioning.receipts import Receipt

log = logging.getLogger(__name__)


def missing_bytes(models_dir: Path, entry: Entry) -> int:
    """Return what a model still needs on the disk: its size, less what its part has or a file that lies there."""
    try:
        target = models_dir / layout.relative_path(entry.save_path)
    except UnsafePath:
        return 0
    size = entry.size or 0
    there = disk.allocated_bytes(layout.part_of(target))
    if target.exists():
        there = max(there, size)
    return max(0, size - there)


def unfitting(models_dir: Path, in_order: Iterable[Order]) -> Iterator[tuple[Order, DiskFull]]:
    """Find the models that will find no room, when each takes what it needs in order."""
    if layout.is_read_only(models_dir):
        return  # nothing will be written; what is missing is told file by file
    left = free = disk.free_bytes(models_dir)
    for order in in_order:
        if order.entry is None or order.receipt is not None or order.trouble is not None:
            continue
        needed = missing_bytes(models_dir, order.entry)
        wanted = needed + int(needed * disk.RESERVE)
        if wanted > left and needed:
            yield (
                order,
                DiskFull(
                    f"{order.model_id} needs {disk.gigabytes(wanted)} on the disk of {models_dir}; "
                    f"{disk.gigabytes(free)} are free, {disk.gigabytes(max(0, left))} after the models before it: free "
                    f"{disk.gigabytes(wanted - left)}, or point MODELS_DIR at a larger disk",
                ),
            )
        else:
            left -= wanted


def demand_writable(models_dir: Path, relative: Path) -> None:
    """Raise `ReadOnly` if a file has to be brought to where nothing can be written."""
    if layout.is_read_only(models_dir):
        found = "is not what the catalogue describes" if (models_dir / relative).exists() else "does not lie there"
        raise ReadOnly(
            f"MODELS_DIR={models_dir} can only be read, and {relative} {found}: let it be put there, or point "
            "MODELS_DIR at a folder that can be written to",
        )


class Evictor:
    """Takes models away that nobody needs, the least recently used first, until a budget is kept."""

    def __init__(self, models_dir: Path, limit: int | None) -> None:
        self.models_dir = models_dir
        self.limit = limit

    def make_room(self, wanted: int, keep: Collection[str]) -> list[str]:
        """Evict until `wanted` more bytes fit into the budget and onto the disk; return who went.

        Never touches a model of `keep`, one that another process declares needed, one that either depends on, or
        one in use. Without a budget nothing is ever evicted.
        """
        if self.limit is None or layout.is_read_only(self.models_dir):
            return []
        known = receipts.load_all(self.models_dir)
        told = status.of_other_processes(status.read(self.models_dir).models)
        others = {name for name, each in told.items() if each.needed}
        kept = _with_dependencies({*keep, *others}, known)
        gone: list[str] = []
        candidates = sorted(set(known) - kept, key=lambda name: uses.last_used(self.models_dir, name))
        if self._lacking(wanted, known) > 0:
            shutil.rmtree(layout.quarantine_folder(self.models_dir), ignore_errors=True)
        for model_id in candidates:
            if self._lacking(wanted, known) <= 0:
                break
            with uses.unleased(self.models_dir, model_id) as free:
                if free:
                    self._evict(known.pop(model_id), known)
                    gone.append(model_id)
        return gone

    def _lacking(self, wanted: int, known: Mapping[str, Receipt]) -> int:
        assert self.limit is not None
        over_budget = wanted + held_bytes(known.values()) - self.limit
        over_disk = wanted + int(wanted * disk.RESERVE) - disk.free_bytes(self.models_dir)
        return max(over_budget, over_disk)

    def _evict(self, receipt: Receipt, remaining: Mapping[str, Receipt]) -> None:
        """Withdraw the proof first, then remove what no other model shares."""
        shared = {file.path for other in remaining.values() for file in other.files}
        with held(layout.lock_path(self.models_dir, custody.RECEIPTS_LOCK), threading.Event()):
            receipts.remove(self.models_dir, receipt.model_id)
            for file in receipt.files:
                if file.path not in shared:
                    (self.models_dir / file.path).unlink(missing_ok=True)
                    twins.refresh(self.models_dir, file)
        log.info("evicted %s", receipt.model_id)


def held_bytes(known: Iterable[Receipt]) -> int:
    """Return the bytes of all proven files, each file once."""
    return sum({file.inode: file.size for receipt in known for file in receipt.files}.values())


def _with_dependencies(model_ids: Iterable[str], known: Mapping[str, Receipt]) -> set[str]:
    seen: set[str] = set()
    queue = list(model_ids)
    while queue:
        each = queue.pop()
        if each not in seen:
            seen.add(each)
            queue.extend(known[each].dependencies if each in known else ())
    return seen
