"""What is here already: believed by its receipt, checked by stat every second, hashed again on demand."""

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from provisioning import digests, layout, quarantine, receipts
from provisioning.errors import ProvisioningError, Stopped
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


def wrong_files(models_dir: Path, receipt: Receipt, stop: threading.Event) -> list[ProvenFile]:
    """Hash a model's files and return those that are not what was proved. Raises `Stopped`."""
    wrong = []
    for file in receipt.files:
        if stop.is_set():
            raise Stopped
        expected = digests.parse(file.hash)
        try:
            found = digests.of_file(models_dir / file.path, {expected.algorithm}, stop)[expected.algorithm]
        except OSError:
            wrong.append(file)
            continue
        if found != expected or not receipts.file_is_intact(models_dir, file):
            wrong.append(file)
    return wrong


def verify(
    models_dir: Path,
    proved: Iterable[Receipt],
    stop: threading.Event,
    found: Callable[[Receipt, Sequence[ProvenFile]], None],
) -> None:
    """Hash everything again, several files on several cores, and tell each result. Raises `Stopped`."""
    proved = list(proved)
    with ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="verify") as pool:
        results = pool.map(lambda receipt: wrong_files(models_dir, receipt, stop), proved)
        for receipt, wrong in zip(proved, results, strict=True):
            found(receipt, wrong)


def remove_wrong(models_dir: Path, wrong: Iterable[ProvenFile]) -> None:
    """Move files away that are known to be bad, so that nobody reads them under their name."""
    for file in wrong:
        try:
            quarantine.take_away(models_dir, models_dir / file.path, file.path)
        except OSError as error:
            raise ProvisioningError(f"{file.path} is damaged and cannot be moved away: {error}") from error
