"""How a run ended."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from provisioning import orders
from provisioning.errors import DependencyFailed, ProvisioningError, Stopped
from provisioning.orders import Order


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended: of the models that were asked for, those ready and those not, with the reason."""

    ready: tuple[str, ...]
    failed: dict[str, ProvisioningError]
    stopped: bool = False


def outcome_of(known: Mapping[str, Order], listed: Iterable[str], *, stopped: bool) -> Outcome:
    """Tell which of the models that were asked for are ready, and why the others are not."""
    complete = orders.ready(known)
    ready: list[str] = []
    failed: dict[str, ProvisioningError] = {}
    for model_id in listed:
        if model_id in complete:
            ready.append(model_id)
            continue
        unfinished = Stopped() if stopped else DependencyFailed(orders.needs(known, known[model_id]))
        failed[model_id] = known[model_id].trouble or unfinished
    return Outcome(tuple(ready), failed, stopped)
