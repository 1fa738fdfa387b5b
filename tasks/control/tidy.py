"""One round of tidying: what is no longer to be kept is deleted, a bounded part of it in each round."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice

from sqlalchemy.exc import OperationalError

from app.core import picture_files, retention
from app.core.fleet import Fleet, Transaction
from app.core.keeping import Keeping
from app.core.retention import Place

log = logging.getLogger(__name__)

MOST_PARTS = 10
"""How many transactions a step may take in one round: with a round each minute that is 2.8 million rows a day."""

FOLDERS_PER_ROUND = 8
"""How many of the store's 512 folders a round looks into for files without a row: all of them in about an hour."""

MOST_FILES = 500
"""How many files are asked about at once."""


@dataclass(slots=True)
class Tidier:
    """Deletes what is no longer kept; remembers how far it has looked through what has no index."""

    fleet: Fleet
    keeping: Keeping
    _busy: threading.Lock = field(default_factory=threading.Lock)
    _place: Place | None = None
    """How far the pictures were looked through."""
    _folder: int = 0

    def run(self) -> None:
        """Do one round, unless one is under way."""
        if not self._busy.acquire(blocking=False):
            return
        try:
            self._round()
        except OperationalError as exc:  # as in the sweep
            log.warning("this round of tidying was cut short: the database said %s", type(exc.orig).__name__)
        finally:
            self._busy.release()

    def _round(self) -> None:
        kept = self.keeping
        self._old("jobs", kept.jobs, retention.forget_jobs)
        self._old("pictures", kept.images, retention.forget_images)
        self._old("deliveries", kept.deliveries, retention.forget_deliveries)
        self._old("uploaded pictures", kept.inputs, retention.forget_inputs)
        self._old("visitors", kept.visitors, retention.forget_visitors)
        self._old("machines", kept.machines, retention.forget_machines)
        if before := Keeping.before(kept.leftovers, self.fleet.clock()):
            self._look_for_leftovers(before)
            self._look_for_strays(before)
        self._delete_files()

    def _old(self, what: str, days: int, step: Callable[[Transaction, datetime], int]) -> None:
        before = Keeping.before(days, self.fleet.clock())
        if before is None:
            return
        total = 0
        for _ in range(MOST_PARTS):
            with self.fleet.transaction() as tx:
                done = step(tx, before)
            total += done
            if done < retention.MOST_AT_ONCE:
                break
        if total:
            log.info("%d %s from before %s are deleted", total, what, before.isoformat(timespec="seconds"))

    def _look_for_leftovers(self, before: datetime) -> None:
        for _ in range(MOST_PARTS):
            with self.fleet.transaction() as tx:
                self._place = retention.forget_leftovers(tx, before, self._place)
            if self._place is None:
                return

    def _look_for_strays(self, before: datetime) -> None:
        """Doom files that no row knows: their row was never written, or went without them."""
        folders = picture_files.folders()
        for folder in (folders[(self._folder + number) % len(folders)] for number in range(FOLDERS_PER_ROUND)):
            names = iter(self.fleet.images.within(folder, before))
            while keys := list(islice(names, MOST_FILES)):
                self._doom_strays(keys)
        self._folder = (self._folder + FOLDERS_PER_ROUND) % len(folders)

    def _doom_strays(self, keys: list[str]) -> None:
        with self.fleet.reading() as session:
            needed = picture_files.still_needed(session, keys)
        if strays := [key for key in keys if key not in needed]:
            log.warning("%d files of the store belong to no row, such as %s; they are deleted", len(strays), strays[0])
            with self.fleet.transaction() as tx:
                picture_files.doom(tx, strays)

    def _delete_files(self) -> None:
        for _ in range(MOST_PARTS):
            with self.fleet.transaction() as tx:
                done = picture_files.delete_doomed(tx, self.fleet)
            if done < picture_files.MOST_DELETED_AT_ONCE:
                return
