"""What will fail is known early: while the first models are brought, the origins of those that wait are asked.

A token that is missing for the tenth model would else be found out when the ninth is here, hours later.
"""

import logging
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue

from provisioning import digests, hubcache, layout, quarantine, shopping, twins
from provisioning.catalogue import Entry
from provisioning.errors import ProvisioningError
from provisioning.fetch import Fetcher
from provisioning.lanes import Lanes
from provisioning.orders import Order
from provisioning.settings import Settings
from provisioning.transport import Transport

log = logging.getLogger(__name__)

AT_ONCE = 2
"""Questions under way. Nobody waits for the answers."""


@dataclass(frozen=True, slots=True)
class Tidings:
    """What an origin says of a model that waits: how large it is, or why it would not come."""

    order: Order
    entry: Entry
    size: int | None = None
    trouble: ProvisioningError | None = None


class Scout:
    """Asks what origins would send, in threads of its own; its connections are not taken from the downloads."""

    def __init__(self, settings: Settings, transport: Transport, stop: threading.Event, wake: threading.Event) -> None:
        self.settings = settings
        self.fetcher = Fetcher(settings, transport, Lanes(AT_ONCE, stop), stop)
        self.wake = wake
        self._asked: dict[str, Entry] = {}
        self._blamed: dict[str, ProvisioningError] = {}
        """The troubles that were found here and nowhere else: what finds no such trouble later may take them back."""
        self._back: SimpleQueue[Tidings] = SimpleQueue()
        self._under_way = 0

    def look(self, known: Sequence[Order]) -> None:
        """Ask about those models whose turn has not come; about each again when it has been looked up anew."""
        hashes = Counter(order.entry.hash for order in known if order.entry)
        for order in known:
            if self._under_way >= AT_ONCE:
                return
            entry = order.entry
            if entry is None or not self._waits(order) or self._asked.get(order.model_id) is entry:
                continue
            self._asked[order.model_id] = entry
            if entry.hash and hashes[entry.hash] > 1:
                continue  # it comes by the other one's name, from wherever that comes
            self._under_way += 1
            threading.Thread(target=self._ask, args=(order, entry), name=f"ask {order.model_id}", daemon=True).start()

    def tidings(self) -> Iterator[Tidings]:
        """Return what has come in about models that still wait: trouble, or that an earlier trouble is over."""
        while True:
            try:
                heard = self._back.get_nowait()
            except Empty:
                return
            self._under_way -= 1
            order = heard.order
            if order.entry is not heard.entry or not self._waits(order):
                continue
            if heard.trouble is not None and heard.trouble.permanent:
                self._blamed[order.model_id] = heard.trouble
            yield heard

    def _waits(self, order: Order) -> bool:
        is_idle = not order.running and not order.stale_entry and order.receipt is None
        return is_idle and (order.trouble is None or order.trouble is self._blamed.get(order.model_id))

    def _ask(self, order: Order, entry: Entry) -> None:
        size, trouble = None, None
        try:
            if not self._is_at_hand(entry):
                size = forecast(entry, self.fetcher)
        except ProvisioningError as error:
            trouble = error
        except Exception:
            log.exception("asking about %s failed", entry.id)  # when its turn comes, it is told what it is
        self._back.put(Tidings(order, entry, size, trouble))
        self.wake.set()

    def _is_at_hand(self, entry: Entry) -> bool:
        """Tell whether its origin may not be needed: its files lie here, or others with the same content."""
        path = layout.relative_path(entry.save_path)
        if (self.settings.models_dir / path).exists():
            return True
        if not entry.hash:
            return False
        digest = digests.parse(entry.hash)
        refused = quarantine.recall(self.settings.models_dir, path.as_posix())
        return (
            twins.is_here(self.settings.models_dir, path, digest, self.fetcher.stop)
            or hubcache.find(self.settings.hf_cache, digest) is not None
            or (refused is not None and any(digest.matches(each) for each in refused.digests))
        )


def forecast(entry: Entry, fetcher: Fetcher) -> int | None:
    """Ask what would come for a model, and take nothing; return its bytes, None where nobody says how many.

    Raises what bringing it would raise before the first byte.
    """
    basket = shopping.of(entry, fetcher)
    wish = basket.wishes[0]
    offer = fetcher.offer(wish, priority=0)
    if len(basket.wishes) > 1:
        return basket.size
    fetcher.consider(replace(wish, refused=quarantine.lately(fetcher.settings.models_dir, wish.path.as_posix())), offer)
    return basket.size if offer.size is None else offer.size
