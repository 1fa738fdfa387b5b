"""Where a machine's models are: on its own disk, or on a server that draws for it."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from app.settings import Settings
from provisioning import uses
from tasks.machine.client import FleetClient
from tasks.machine.companions import CompanionsOf, OnDemand
from tasks.machine.drivers.a1111.wire import Server
from tasks.machine.drivers.contract import ModelFiles
from tasks.machine.proofs import Disk, Proofs, Receipts
from tasks.machine.stock import Stock
from tasks.machine.watch import files_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Source:
    """What the rest of a machine needs to know of it."""

    proofs: Proofs
    files_of: Callable[[str, str | None], ModelFiles]
    """Return a proven model by id and family; raises ModelNotProven."""
    companions_of: CompanionsOf
    """Return what an order needs beside its model, by id; it is brought here first where that can be."""
    lease: Callable[[str], AbstractContextManager[None]]
    """Held while a model draws."""
    about: Callable[[], dict[str, Any]]
    """Describe it for the check-in."""


UNCHECKED = (
    "SAFETY_CHECK=1, and a remote Automatic1111 has no safety checker that can be asked for: this machine will "
    "refuse every order; unset SAFETY_CHECK, or draw with a machine of another driver"
)


def warn(settings: Settings) -> None:
    """Say at the start what will keep this machine from drawing anything."""
    if settings.driver == "automatic1111" and settings.safety_check:
        log.warning(UNCHECKED)


def make_source(settings: Settings, client: FleetClient, leave_queues: Callable[[], None]) -> Source:
    """Find out where the models of this machine are; a server is watched from now on."""
    if settings.driver == "automatic1111":
        server = Server(settings.a1111_base_url, settings.a1111_auth)
        stock = Stock(server, client, settings.machine_models_needed, leave_queues)
        stock.start()
        return Source(stock, stock.files_of, stock.companions_of, lambda _: nullcontext(), stock.about)
    here = partial(files_of, settings.models_dir)
    downloads = replace(
        settings.downloads,
        models_dir=settings.models_dir,
        fleet_url=settings.fleet_url,
        machine_token=settings.machine_token or None,
    )
    return Source(
        Receipts(settings.models_dir, settings.machine_models_needed),
        here,
        OnDemand(downloads, here),
        partial(uses.leased, settings.models_dir),
        Disk(settings.models_dir).about,
    )
