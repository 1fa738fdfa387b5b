"""The whole: look up, bring, prove, and, if asked to, keep watch for ever.

One thread, the one that calls `Provisioner.run`, decides everything and changes every order. Asking, bringing
and hashing happen in other threads, which only hand their results over.
"""

import logging
import threading
import time
from collections.abc import Iterable
from queue import Empty, SimpleQueue

from provisioning import budget, custody, orders, standing
from provisioning.board import Board
from provisioning.catalogue import LOOKUP_SECONDS, Catalogue, Findings
from provisioning.enquiry import Answer, Enquiry
from provisioning.errors import ProvisioningError, Stopped
from provisioning.events import Listener, notice
from provisioning.fetch import Fetcher
from provisioning.guard import Guard
from provisioning.lanes import Lanes
from provisioning.obtain import Obtainer
from provisioning.orders import Order
from provisioning.outcome import Outcome, outcome_of
from provisioning.receipts import Receipt
from provisioning.scout import Scout
from provisioning.settings import Settings
from provisioning.sharing import join
from provisioning.status import State
from provisioning.transport import Transport

log = logging.getLogger(__name__)

TICK_SECONDS = 0.1
REFRESH_SECONDS = 300.0
"""How often a watching machine asks whether the catalogue has changed."""
AT_ONCE = 3
"""Models on their way at once. The first has all connections it can use; the others fill what it leaves, so
that an origin that hangs does not keep the rest of the models from a machine."""
GRACE_SECONDS = 0.8
"""What threads get, once we are stopped, to note in their journals what has arrived."""
WARM_LOOKUP_SECONDS = 0.4
"""With a receipt for everything, a catalogue that does not answer at once is not waited for."""
LOOKUP_TRIES = 4


class Provisioner:
    """One run of provisioning in one process."""

    def __init__(self, settings: Settings, tell: Listener, stop: threading.Event | None = None) -> None:
        self.settings = settings
        self.tell = tell
        self.stop = stop or threading.Event()
        self.wake = threading.Event()
        self.models_dir = settings.models_dir
        self.board = Board(settings.models_dir, tell)
        transport = Transport(settings)
        fetcher = Fetcher(settings, transport, Lanes(settings.connections, self.stop), self.stop)
        self.sharing = fetcher.sharing = join(settings, self.stop, tell)
        self.obtainer = Obtainer(settings, fetcher, self.board, self.stop)
        self.enquiry = Enquiry(Catalogue(settings, transport), self.wake, settings.retry_seconds)
        self.orders: dict[str, Order] = {}
        self.listed: tuple[str, ...] = ()
        self.watching = self.smallest_first = False
        self.needed = True
        self.scout = Scout(settings, transport, self.stop, self.wake)
        self.guard = Guard(settings, self.board, self.orders, tell, self.stop, self._fail)
        self._results: SimpleQueue[tuple[Order, Receipt | ProvisioningError]] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._began = self._refreshed = time.monotonic()

    def run(
        self,
        model_ids: Iterable[str],
        *,
        watch: bool = False,
        verify: bool = False,
        smallest_first: bool = False,
        needed: bool = True,
    ) -> Outcome:
        """Bring models here and prove them; with `watch`, go on until `stop` is set.

        The first listed come first, unless `smallest_first`; what a model needs comes before it. With `needed` False
        they may be evicted as soon as the run is over.
        """
        self.watching, self.smallest_first, self.needed = watch, smallest_first, needed
        self.listed = tuple(dict.fromkeys(model_ids))
        self._believe_receipts()
        if verify:
            self.guard.verify()
        if self.sharing:
            self.sharing.start()
        while not self.stop.is_set():
            self._look_up()
            self._collect()
            self._start()
            self._look_ahead()
            standing.settle(self.board, self.orders)
            if watch:
                self.guard.look()
            elif self._is_over():
                break
            self.wake.wait(TICK_SECONDS)
            self.wake.clear()
        end = time.monotonic() + GRACE_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        if self.sharing:
            self.sharing.stop()
        self._collect()
        return outcome_of(self.orders, self.listed, stopped=self.stop.is_set())

    # What is here already

    def _believe_receipts(self) -> None:
        """Take over intact receipts, so that a machine that has everything is ready without asking anyone."""
        queue = [(each, self.needed) for each in self.listed]
        for model_id, needed in queue:
            if model_id in self.orders:
                continue
            order = self._add(model_id, needed=needed)
            order.receipt = custody.intact_receipt(self.models_dir, model_id)
            if order.receipt is not None:
                queue.extend((each, False) for each in order.receipt.dependencies)
        self._rank()

    def _add(self, model_id: str, *, needed: bool) -> Order:
        order = self.orders[model_id] = Order(model_id, needed)
        self.board.declare(model_id, needed=needed)
        return order

    # Looking up

    def _look_up(self) -> None:
        """Ask about every model whose entry is missing or may have been corrected, and take in the answer."""
        answer = self.enquiry.answer()
        if answer is not None:
            self._hear(answer)
        now = time.monotonic()
        if self.watching and now - self._refreshed > REFRESH_SECONDS:
            self._refreshed = now
            for order in self.orders.values():
                order.stale_entry = True
        due = [each.model_id for each in self._in_order() if each.stale_entry and not each.running and now >= each.due]
        if due and self.enquiry.may_ask:
            hurry = self._is_warm() and not self.watching
            self.enquiry.ask(due, WARM_LOOKUP_SECONDS if hurry else LOOKUP_SECONDS)

    def _hear(self, answer: Answer) -> None:
        if answer.found is not None:
            self._learn(answer.found)
            return
        assert answer.trouble is not None
        last = not self.watching and (self.enquiry.failures >= LOOKUP_TRIES or answer.trouble.permanent)
        asked = [self.orders[each] for each in answer.asked]
        waiting = [order for order in asked if order.receipt is None]
        if waiting:
            end = "giving up" if last else f"asking again in {self.enquiry.pause:g} s"
            self.tell(notice(f"{answer.trouble}; {end}", level="error" if last else "warning"))
        for order in asked if last else ():
            order.stale_entry, order.trouble = False, None if order.receipt else answer.trouble

    def _learn(self, found: Findings) -> None:
        for model_id in (*found.entries, *found.problems):
            order = self.orders.get(model_id) or self._add(model_id, needed=False)
            order.stale_entry = False
            if model_id in found.entries:
                order.entry = found.entries[model_id]
                self.board.declare(model_id, needed=order.needed, bytes_total=order.entry.size)
                self.guard.compare(order)
            elif order.receipt is None:
                if not order.running:  # else it is brought as it was when the catalogue still had it
                    self._fail(order, found.problems[model_id])
            else:
                # It was proved when the catalogue still had it: it goes on serving.
                message = f"{found.problems[model_id]}; what is here is kept"
                self.tell(notice(message, model_id=model_id, level="warning"))
        if not any(order.stale_entry for order in self.orders.values()):
            self.board.note("looked_up")
        self._rank()
        for order, conflict in orders.conflicts(self._in_order()):
            self._fail(order, conflict)
        self._make_room()
        if not any(order.stale_entry for order in self.orders.values()):
            self.board.note("planned")

    def _make_room(self) -> None:
        """Let unneeded models make way, and refuse what will not fit before its first byte."""
        coming = [each.entry for each in self.orders.values() if each.entry and not each.receipt and not each.trouble]
        wanted = sum(budget.missing_bytes(self.models_dir, entry) for entry in coming)
        for model_id in budget.Evictor(self.models_dir, self.settings.disk_budget).make_room(wanted, self.orders):
            self.tell(notice(f"{model_id} was evicted to make room", model_id=model_id, level="warning"))
        for order, trouble in list(budget.unfitting(self.models_dir, self._in_order())):
            if not order.running:
                self._fail(order, trouble)

    # Bringing

    def _start(self) -> None:
        now = time.monotonic()
        running = sum(order.running for order in self.orders.values())
        for order in self._in_order():
            if running >= AT_ONCE:
                return
            waits = order.entry is not None and not order.stale_entry and order.receipt is None and not order.running
            if waits and now >= order.due and (order.trouble is None or self.watching):
                earlier, order.trouble = order.trouble, None
                clash = orders.conflict_of(order, self._in_order())
                if clash is not None:
                    order.trouble = earlier
                    self._fail(order, clash)
                    continue
                running += 1
                order.running = True
                standing.put(self.board, order, State.WANTED)
                thread = threading.Thread(target=self._bring, args=(order,), name=order.model_id, daemon=True)
                self._threads = [each for each in self._threads if each.is_alive()] + [thread]
                thread.start()

    def _look_ahead(self) -> None:
        """Tell now of what would fail when its turn comes."""
        for heard in self.scout.tidings():
            order = heard.order
            if heard.trouble is None:
                self.board.declare(order.model_id, needed=order.needed, bytes_total=heard.size)
                if order.trouble is not None:
                    order.trouble = None
                    standing.put(self.board, order, State.WANTED)
            elif heard.trouble.permanent:
                self._fail(order, heard.trouble)
            else:
                message = f"{heard.trouble}; it is asked for again when its turn comes"
                self.tell(notice(message, model_id=order.model_id, level="warning"))
        self.scout.look(self._in_order())

    def _bring(self, order: Order) -> None:
        """Obtain a model, in a thread of its own, and hand the result over."""
        result: Receipt | ProvisioningError
        try:
            assert order.entry is not None
            result = self.obtainer.obtain(order.entry, order.rank)
        except ProvisioningError as error:
            result = error
        except Exception as error:
            log.exception("bringing %s failed", order.model_id)
            result = ProvisioningError(f"{type(error).__name__}: {error}; this is a mistake of ours, please report it")
        self._results.put((order, result))
        self.wake.set()

    def _collect(self) -> None:
        while True:
            try:
                order, result = self._results.get_nowait()
            except Empty:
                return
            order.running = False
            if isinstance(result, Receipt):
                order.succeed(result)
            elif not isinstance(result, Stopped):
                self._fail(order, result)

    def _fail(self, order: Order, error: ProvisioningError) -> None:
        is_news = order.trouble is None or str(order.trouble) != str(error)
        seconds = order.fail(error, self.settings.retry_seconds)
        order.stale_entry = self.watching
        standing.put(self.board, order, State.ERROR, error)
        if self.watching and is_news:  # an id that nobody adds would else be told of for ever, each half minute
            self.tell(notice(f"trying again in {seconds:.0f} s", model_id=order.model_id))

    def _rank(self) -> None:
        listed = orders.by_size(self.orders, self.listed) if self.smallest_first else self.listed
        orders.rank(self.orders, listed)

    def _in_order(self) -> list[Order]:
        return orders.in_order(self.orders)

    def _is_warm(self) -> bool:
        return all(order.receipt is not None for order in self.orders.values())

    def _is_over(self) -> bool:
        if self._is_warm() and time.monotonic() - self._began > WARM_LOOKUP_SECONDS:
            return True
        return not any(
            order.running or order.stale_entry or (order.receipt is None and order.trouble is None)
            for order in self.orders.values()
        )
