"""The heart of a web process: it beats in the database, so that everybody knows whether machines can be heard.

With each beat what the process has measured is written down.
"""

import logging
import threading
import time
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError

from app.core import counters, heartbeats
from app.core.fleet import Fleet

log = logging.getLogger(__name__)


class Heart:
    """Beats on a thread of its own, as long as its process takes requests."""

    def __init__(self, fleet: Fleet, takes_requests: Callable[[], bool], name: str = heartbeats.API) -> None:
        self._fleet = fleet
        self._takes_requests = takes_requests
        self._name = name
        self._falters = False

    def start(self) -> None:
        """Begin to beat, at once."""
        threading.Thread(target=self._run, name="heart", daemon=True).start()

    def _run(self) -> None:
        # A process that was told to stop hears no machine any more, though it may take seconds to finish what it has.
        while self._takes_requests():
            self._beat()
            time.sleep(heartbeats.BEAT_SECONDS)

    def _beat(self) -> None:
        try:
            with self._fleet.transaction() as tx:
                heartbeats.beat(tx, self._name)
            counters.write(self._fleet)
        except SQLAlchemyError as exc:
            if not self._falters:
                log.warning("the database does not take our heartbeat: %s; trying on", type(exc).__name__)
            self._falters = True
            return
        if self._falters:
            log.info("the database takes our heartbeat again")
        self._falters = False
