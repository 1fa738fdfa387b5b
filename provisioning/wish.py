"""One file: what is wished for, what came, and who wants to know how it goes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from provisioning.digests import Digest
from provisioning.origin import Offer
from provisioning.quarantine import Refused


@dataclass(frozen=True, slots=True)
class Wish:
    """One file that a model consists of. `digest` and `size` are what it must be; None where nobody said."""

    model_id: str
    url: str
    path: Path
    digest: Digest | None = None
    size: int | None = None
    auth_required: bool = False
    auth_provider: str | None = None
    refused: Refused | None = None
    """What was fetched before and refused, so that the same bytes are not fetched again."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """What came: its digests by algorithm, its size, and what the origin itself said about it."""

    size: int
    digests: dict[str, Digest]
    offer: Offer
    from_neighbours: bool = False


@dataclass(frozen=True, slots=True)
class Watcher:
    """Whom a fetch keeps informed: `progress` with (bytes, total), `arrived` when only hashing is left."""

    progress: Callable[[int, int | None], None]
    arrived: Callable[[], None]
