"""What is still to be brought, in which order, and what a model's state follows from."""

import random
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from provisioning.catalogue import Entry
from provisioning.errors import PathConflict, ProvisioningError
from provisioning.receipts import Receipt

CEILING = 60
"""A wait grows up to so many times the first one: five seconds become five minutes."""
UNKNOWN_FACTOR = 6
"""An id that the catalogue does not have is asked for again after so many first waits: thirty seconds."""


@dataclass(slots=True, eq=False)
class Order:
    """One model that somebody wants here."""

    model_id: str
    needed: bool
    rank: int = 0
    entry: Entry | None = None
    receipt: Receipt | None = None
    """What proves it; None while it is not proved."""
    trouble: ProvisioningError | None = None
    failures: int = 0
    due: float = 0.0
    running: bool = False
    stale_entry: bool = True
    """The entry has to be looked up (again) before the next try."""

    @property
    def dependencies(self) -> tuple[str, ...]:
        """What it needs, as far as we know."""
        if self.entry is not None:
            return self.entry.dependencies
        return self.receipt.dependencies if self.receipt else ()

    def fail(self, trouble: ProvisioningError, first_wait: float) -> float:
        """Note a failure, and return how many seconds until the next try."""
        self.trouble = trouble
        self.receipt = None
        self.stale_entry = True
        if trouble.code == "not_found":
            seconds = first_wait * UNKNOWN_FACTOR
        else:
            seconds = first_wait * min(CEILING, 2**self.failures)
        self.failures += 1
        seconds *= random.uniform(0.8, 1.2)  # noqa: S311 - jitter, no secret
        self.due = time.monotonic() + max(seconds, trouble.retry_after or 0.0)
        return seconds

    def succeed(self, receipt: Receipt) -> None:
        """Note the proof."""
        self.receipt = receipt
        self.trouble = None
        self.failures = 0


def rank(orders: Mapping[str, Order], listed: Iterable[str]) -> None:
    """Give the orders their numbers: as the operator listed them, what a model needs before the model itself.

    In a cycle the one that was met first comes last; it is one unit anyway.
    """
    seen: dict[str, None] = {}
    done: list[str] = []
    for start in listed:
        stack: list[tuple[str, bool]] = [(start, False)]
        while stack:
            model_id, after = stack.pop()
            if after:
                done.append(model_id)
            elif model_id in orders and model_id not in seen:
                seen[model_id] = None
                stack.append((model_id, True))
                stack.extend((each, False) for each in reversed(orders[model_id].dependencies))
    for number, model_id in enumerate(done):
        orders[model_id].rank = number


def in_order(orders: Mapping[str, Order]) -> list[Order]:
    """Return the orders as they are to be brought."""
    return sorted(orders.values(), key=lambda each: each.rank)


def by_size(orders: Mapping[str, Order], listed: Iterable[str]) -> list[str]:
    """Sort what the operator listed by the bytes of each model with all it needs, the smallest first."""

    def size(model_id: str) -> int:
        seen: set[str] = set()
        queue = [model_id]
        while queue:
            each = queue.pop()
            if each in orders and each not in seen:
                seen.add(each)
                queue.extend(orders[each].dependencies)
        entries = (orders[each].entry for each in seen if orders[each].receipt is None)
        return sum(entry.size or 0 for entry in entries if entry)

    return sorted(listed, key=size)


def ready(orders: Mapping[str, Order]) -> frozenset[str]:
    """Return the models that are proved, with everything they depend on."""
    proved = {model_id for model_id, order in orders.items() if order.receipt is not None}
    while True:
        lacking = {each for each in proved if not proved.issuperset(orders[each].dependencies)}
        if not lacking:
            return frozenset(proved)
        proved -= lacking


def obstacles(orders: Mapping[str, Order], model_id: str) -> list[Order]:
    """Return what a model depends on, directly or not, that has failed."""
    seen, queue, failed = {model_id}, list(orders[model_id].dependencies), []
    while queue:
        each = queue.pop()
        if each in seen or each not in orders:
            continue
        seen.add(each)
        queue.extend(orders[each].dependencies)
        if orders[each].trouble is not None:
            failed.append(orders[each])
    return failed


def needs(orders: Mapping[str, Order], order: Order) -> str:
    """Say what keeps a model that is here from being served."""
    failed = ", ".join(
        f"{each.model_id} ({each.trouble.code})" for each in obstacles(orders, order.model_id) if each.trouble
    )
    return f"{order.model_id} is here and proved, but it needs {failed}"


def conflict_of(order: Order, in_order: Iterable[Order]) -> PathConflict | None:
    """Return what keeps one order from its path: which others want it changes while they are brought and fail."""
    return next((conflict for each, conflict in conflicts(in_order) if each is order), None)


def conflicts(in_order: Iterable[Order]) -> Iterator[tuple[Order, PathConflict]]:
    """Find the models that want other content at a path that an earlier one has taken.

    One that is proved or being brought keeps its path, also from those listed before it.
    """
    owners: dict[str, Order] = {}
    for order in sorted(in_order, key=lambda each: not (each.running or each.receipt)):
        if order.entry is None or order.trouble is not None:
            continue
        path = order.entry.save_path.strip("/")
        owner = owners.setdefault(path, order)
        is_free = not order.running and order.receipt is None
        if is_free and owner.entry is not None and owner.entry.hash != order.entry.hash:
            yield (
                order,
                PathConflict(
                    f"{order.model_id} and {owner.model_id} want different content at {path}; give one of them another "
                    "save_path in the catalogue",
                ),
            )
