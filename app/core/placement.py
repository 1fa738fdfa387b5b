"""Placement: which models each machine should hold next, from what is ordered and what lies where.

Pure: the facts go in, the advice comes out, the same for the same facts. A model is added where it helps most for the
bytes that would have to move; a model is dropped only where its room is needed and nobody has asked for it lately.

How busy a machine would be is counted in machines' worth of work: what is ordered of a model is shared evenly by those
that hold it, and 1 is a machine that is just kept busy.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from app.core.durations import in_words
from app.core.placement_facts import Facts, MachineFacts, ModelFacts
from app.core.roster import BYTES_PER_GB

HORIZON_SECONDS = 600.0
"""What waits should be drawn within so long; and a download of so long is worth one machine's work."""

BUSY = 1.0
"""A model whose least busy machine has more to do than this gets another one."""

GAIN = 0.8
"""Nothing moves unless the newcomer is less busy than the old ones by this factor, its download counted in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What one machine should hold next."""

    machine_id: str
    needed_now: Sequence[str]
    needed_next: Sequence[str]
    adds: Sequence[str]
    drops: Sequence[str]
    bytes_to_fetch: int
    seconds_to_fetch: float | None
    explanation: str


@dataclass(frozen=True, slots=True)
class Advice:
    """Proposals for all machines, and models that are asked for and fit nowhere."""

    proposals: Sequence[Proposal]
    unplaced: Mapping[str, str]
    """By model, why."""


def advise(facts: Facts) -> Advice:
    """Propose the next MACHINE_MODELS_NEEDED of every machine; whoever follows it is proposed nothing more."""
    board = _Board(facts)
    by_work = sorted(facts.models.values(), key=lambda model: (-model.work, -model.jobs, model.id))
    # A model that was dropped for one may leave room for another: until nothing moves any more.
    while _place(board, by_work) or _relieve(board, by_work):
        pass
    unplaced = {
        model.id: board.why_nowhere(model)
        for model in by_work
        if model.is_asked_for and not board.holders.get(model.id)
    }
    return Advice([board.proposal_of(machine) for machine in facts.machines], unplaced)


def _place(board: "_Board", by_work: Iterable[ModelFacts]) -> bool:
    """Give every model that is asked for a machine; returns whether any was moved."""
    moved = False
    for model in by_work:
        if model.is_asked_for and not board.holders.get(model.id) and (place := board.best_for(model)):
            why = f"add {model.id}: {_asked(model)}, and no machine that takes jobs is to hold it"
            board.add(place, model, why)
            moved = True
    return moved


def _relieve(board: "_Board", by_work: Iterable[ModelFacts]) -> bool:
    """Give models whose machines are too busy more of them; returns whether any was moved."""
    moved = False
    for model in by_work:
        while model.work > 0 and (place := board.relief_for(model)):
            count = len(board.holders[model.id])
            those = "its machine" if count == 1 else f"its {count} machines"
            why = f"{_asked(model)}, {model.work:.1f} machines' worth of work, and {those} would not be through in time"
            board.add(place, model, f"add {model.id}: {why}")
            moved = True
    return moved


def _asked(model: ModelFacts) -> str:
    if model.jobs:
        return "1 job of it waits or runs" if model.jobs == 1 else f"{model.jobs} jobs of it wait or run"
    return (
        "1 job of it was ordered" if model.recent == 1 else f"{model.recent} jobs of it were ordered in the last hour"
    )


@dataclass(frozen=True, slots=True)
class _Place:
    """How a model would come to a machine."""

    machine: MachineFacts
    fetch: int
    """Bytes."""
    drops: Sequence[str]
    takes_last: bool
    """No other machine is to hold one of those that are dropped."""
    busy: float
    """How busy the machine would be, its download counted in."""

    @property
    def rank(self) -> tuple[bool, float, str]:
        """Return what places are compared by: the smallest is the best."""
        return self.takes_last, self.busy, self.machine.id


class _Board:
    """What each machine holds while the advice is being made; kept up with every move, as there may be many."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._able = [machine for machine in facts.machines if machine.why_left_alone is None]
        self._next = {machine.id: list(dict.fromkeys(machine.needed)) for machine in facts.machines}
        self._closures: dict[str, frozenset[str]] = {}
        self._have = {each.id: each.on_disk | self._all_of(self._next[each.id]) for each in facts.machines}
        self._free = {machine.id: machine.disk_free for machine in facts.machines}
        self._drops: dict[str, list[str]] = {machine.id: [] for machine in facts.machines}
        self._fetches = dict.fromkeys(self._next, 0)
        self._words: dict[str, list[str]] = {machine.id: [] for machine in facts.machines}
        self.holders: dict[str, set[str]] = {}
        """The machines that take jobs and are to hold a model, by its id."""
        for machine in self._able:
            for model_id in self._next[machine.id]:
                self.holders.setdefault(model_id, set()).add(machine.id)

    def best_for(self, model: ModelFacts) -> _Place | None:
        """Return the place where a model helps soonest: little to fetch, little else to do; None: it fits nowhere.

        The last place of another model is taken only where nothing else would do.
        """
        places = (self._place(machine, model) for machine in self._able)
        return min((place for place in places if place), key=lambda place: place.rank, default=None)

    def relief_for(self, model: ModelFacts) -> _Place | None:
        """Return a place that would take work off a model's busy machines; None where they are not, or none would."""
        least = min((self._load(machine_id) for machine_id in self.holders.get(model.id, ())), default=0.0)
        place = self.best_for(model) if least > BUSY else None
        return place if place and not place.takes_last and place.busy < least * GAIN else None

    def _load(self, machine_id: str) -> float:
        """Return how busy a machine is, in machines' worth of work."""
        known = (self._facts.models[each] for each in self._next[machine_id] if each in self._facts.models)
        return sum(model.work / len(self.holders[model.id]) for model in known if model.work)

    def _place(self, machine: MachineFacts, model: ModelFacts) -> _Place | None:
        """Say what a model costs on a machine, and what must go for it; None where it cannot be there."""
        if machine.id in self.holders.get(model.id, ()) or _is_too_large(machine, model):
            return None
        fetch = self._bytes(self._closure(model.id) - self._have[machine.id])
        drops = self._room_made(machine, model, fetch)
        if drops is None:
            return None
        speed = self._facts.speed
        seconds = fetch / speed if speed else HORIZON_SECONDS * (fetch > 0)
        own = model.work / (len(self.holders.get(model.id, ())) + 1)
        takes_last = any(len(self.holders[dropped]) == 1 for dropped in drops)
        return _Place(machine, fetch, drops, takes_last, self._load(machine.id) + own + seconds / HORIZON_SECONDS)

    def _room_made(self, machine: MachineFacts, model: ModelFacts, fetch: int) -> Sequence[str] | None:
        """Name what must go from a disk for a model to come; None where that would not be enough."""
        free = self._free[machine.id]
        if free is None or fetch <= free:
            return ()
        drops: list[str] = []
        for idle in self._idle(machine):
            drops.append(idle)
            if fetch <= free + self._bytes(self._freed(machine, drops, model)):
                return drops
        return None

    def _freed(self, machine: MachineFacts, drops: Collection[str], model: ModelFacts) -> frozenset[str]:
        """Name the files that nothing on a machine needs any more once some models are dropped and another has come."""
        keeps = [each for each in self._next[machine.id] if each not in drops]
        gone = frozenset().union(*(self._closure(each) for each in drops)) & machine.on_disk
        return gone - self._all_of([*keeps, model.id])

    def _idle(self, machine: MachineFacts) -> list[str]:
        """Return what could go: models that nobody asks for, first those that are elsewhere too, large ones first."""
        models = self._facts.models
        idle = [
            each
            for each in self._next[machine.id]
            if each in models and not models[each].is_asked_for and each not in machine.pinned
        ]
        return sorted(idle, key=lambda each: (len(self.holders[each]) == 1, -self._bytes(self._closure(each)), each))

    def add(self, place: _Place, model: ModelFacts, why: str) -> None:
        """Put a model in a place, and take from there what must go."""
        machine = place.machine
        freed = self._freed(machine, place.drops, model)
        words = [f"{why}; {self._fetching(place.fetch)}"]
        for dropped in place.drops:
            self.holders[dropped].discard(machine.id)
            self._next[machine.id].remove(dropped)
            others = sorted(self.holders[dropped])
            where = f"{others[0]} holds it too" if others else "no other machine holds it"
            words.append(f"drop {dropped} to make room: nobody asked for it in the last hour, and {where}")
        self._drops[machine.id] += place.drops
        self._next[machine.id].append(model.id)
        self.holders.setdefault(model.id, set()).add(machine.id)
        free = self._free[machine.id]
        self._free[machine.id] = None if free is None else free + self._bytes(freed) - place.fetch
        self._have[machine.id] = (self._have[machine.id] - freed) | self._closure(model.id)
        self._fetches[machine.id] += place.fetch
        self._words[machine.id] += words

    def _fetching(self, count: int) -> str:
        if not count:
            return "its files are there already"
        told = f"{count / BYTES_PER_GB:.1f} GB to fetch"
        speed = self._facts.speed
        return f"{told}, about {in_words(count / speed)} at the measured {speed / 1e6:.0f} MB/s" if speed else told

    def _closure(self, model_id: str) -> frozenset[str]:
        if model_id not in self._closures:
            self._closures[model_id] = self._facts.sizes.closure([model_id])
        return self._closures[model_id]

    def _all_of(self, model_ids: Iterable[str]) -> frozenset[str]:
        return frozenset().union(*(self._closure(each) for each in model_ids))

    def _bytes(self, model_ids: Iterable[str]) -> int:
        return sum(self._facts.sizes.entries[each].size or 0 for each in model_ids)

    def why_nowhere(self, model: ModelFacts) -> str:
        """Say why a model that is asked for is put nowhere."""
        if not self._able:
            return f"{_asked(model)}, and no machine takes jobs: start one with MACHINE_MODELS_NEEDED={model.id}"
        small = [machine for machine in self._able if _is_too_large(machine, model)]
        if len(small) == len(self._able):
            needs = f"{(model.memory or 0) / BYTES_PER_GB:.1f} GB"
            return f"{_asked(model)}, and no machine has the {needs} of memory that it takes: start one that has"
        return (
            f"{_asked(model)}, and no machine that could draw it has room on its disk beside what is asked for: "
            f"start one with MACHINE_MODELS_NEEDED={model.id}, or give one a larger disk"
        )

    def proposal_of(self, machine: MachineFacts) -> Proposal:
        """Return what has become of a machine."""
        following, fetch = self._next[machine.id], self._fetches[machine.id]
        why = machine.why_left_alone or "; ".join(self._words[machine.id])
        return Proposal(
            machine_id=machine.id,
            needed_now=list(dict.fromkeys(machine.needed)),
            needed_next=following,
            adds=[each for each in following if each not in machine.needed],
            drops=self._drops[machine.id],
            bytes_to_fetch=fetch,
            seconds_to_fetch=round(fetch / self._facts.speed, 1) if self._facts.speed else None,
            explanation=why or "nothing to change",
        )


def _is_too_large(machine: MachineFacts, model: ModelFacts) -> bool:
    return machine.memory is not None and model.memory is not None and model.memory > machine.memory
