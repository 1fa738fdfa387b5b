"""What is here already: believed by its receipt, checked by stat every second, hashed again on demand."""

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from provisioning import digests, layout, quarantine, receipts
from provisioning.errors import DiskBroken
from provisioning.locks import held
from provisioning.receipts import ProvenFile, Receipt

RECEIPTS_LOCK = "receipts"
"""Held while a hard link is made and the receipts that it touches are written again."""


def intact_receipt(models_dir: Path, model_id: str) -> Receipt | None:
    """Return a model's receipt if every file is still what was proved."""
    receipt = receipts.load(models_dir, model_id)
    return receipt if receipt is not None and receipts.is_intact(models_dir, receipt) else None


def still_proved(models_dir: Path, model_id: str) -> Receipt | None:
    """Return a model's receipt if it holds; look again under the lock before saying that it does not.

    A second name for a file (a hard link) changes its ctime: for a moment the receipt looks stale.
    """
    receipt = intact_receipt(models_dir, model_id)
    if receipt is not None or receipts.load(models_dir, model_id) is None:
        return receipt
    with held(layout.lock_path(models_dir, RECEIPTS_LOCK), threading.Event()):
        return intact_receipt(models_dir, model_id)


def withdraw(models_dir: Path, model_id: str) -> None:
    """Take a model's receipt away; nobody who brings receipts up to date meanwhile writes it again."""
    with held(layout.lock_path(models_dir, RECEIPTS_LOCK), threading.Event()):
        receipts.remove(models_dir, model_id)


def is_wrong(models_dir: Path, file: ProvenFile, stop: threading.Event) -> bool:
    """Hash a file and tell whether it is something else than what was proved. Raises `Stopped`.

    Its bytes alone decide: another name that it was given meanwhile, or lost, has changed its ctime and nothing else.
    """
    expected = digests.parse(file.hash)
    try:
        found = digests.of_file(models_dir / file.path, {expected.algorithm}, stop)[expected.algorithm]
    except OSError:
        return True
    return found != expected


def wrong_files(models_dir: Path, receipt: Receipt, stop: threading.Event) -> list[ProvenFile]:
    """Hash a model's files, one after another, and return those that are wrong. Raises `Stopped`."""
    return [file for file in receipt.files if is_wrong(models_dir, file, stop)]


def verify(
    models_dir: Path,
    proved: Iterable[Receipt],
    stop: threading.Event,
    found: Callable[[Receipt, Sequence[ProvenFile]], None],
) -> None:
    """Hash everything again, several files on several cores, and tell each result. Raises `Stopped`."""
    with ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="verify") as pool:
        begun = [(each, [pool.submit(is_wrong, models_dir, file, stop) for file in each.files]) for each in proved]
        for receipt, verdicts in begun:
            pairs = zip(receipt.files, verdicts, strict=True)
            found(receipt, [file for file, verdict in pairs if verdict.result()])


def remove_wrong(models_dir: Path, wrong: Iterable[ProvenFile]) -> None:
    """Move files away that are known to be bad, so that nobody reads them under their name.

    From a share that can only be read nothing is moved; there the receipt that is gone keeps machines from them.
    """
    for file in () if layout.is_read_only(models_dir) else wrong:
        try:
            quarantine.take_away(models_dir, models_dir / file.path, file.path)
        except OSError as error:
            raise DiskBroken(f"{file.path} is damaged and cannot be moved away: {error}; remove it") from error
