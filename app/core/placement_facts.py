"""What a placement is made from. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from app.core.roster import Sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """A model that pictures are drawn with."""

    id: str
    jobs: int = 0
    """That wait or run."""
    recent: int = 0
    """Jobs that were ordered in the last hour."""
    work: float = 0.0
    """Machines' worth of work that is ordered."""
    memory: int | None = None
    """Bytes that drawing with it takes, as a machine has measured; None: not known."""

    @property
    def is_asked_for(self) -> bool:
        """Say whether anybody wants it."""
        return self.jobs > 0 or self.recent > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineFacts:
    """A machine that is given jobs, or is not."""

    id: str
    needed: Sequence[str] = ()
    """Its MACHINE_MODELS_NEEDED."""
    on_disk: frozenset[str] = frozenset()
    """What has arrived there and is proven, dependencies included."""
    disk_free: int | None = None
    """Bytes that are free once what is on its way has come; None: not known."""
    memory: int | None = None
    """Bytes in which it draws; None: not known."""
    pinned: frozenset[str] = frozenset()
    """Models of the engines it holds: they stay."""
    why_left_alone: str | None = None
    """Why nothing is proposed for it."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a placement is made from."""

    machines: Sequence[MachineFacts]
    models: Mapping[str, ModelFacts]
    sizes: Sizes = field(default_factory=Sizes)
    speed: float | None = None
    """Bytes a second at which machines fetch; None: not measured."""
