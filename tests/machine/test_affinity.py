"""In which order a machine asks its queues."""

from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from app.core.dispatch import machine_queue, model_queue
from tasks.machine.affinity import Affinity, AffinityCycle

OWN = machine_queue("gpu-1")


@dataclass
class Clock:
    """Seconds, set by hand."""

    now: float = 0.0

    def __call__(self) -> float:
        """Return the second it shows."""
        return self.now


@dataclass
class Machine:
    """A machine whose queues are as long as a test says; each job takes a second."""

    seconds: float
    queues: dict[str, int]
    load_seconds: float = 0.0
    clock: Clock = field(default_factory=Clock)
    drawn: list[str] = field(default_factory=list)
    waited: dict[str, float] = field(default_factory=dict)
    """The longest that a queue in which something waits was not served."""

    def __post_init__(self) -> None:
        """Begin to consume."""
        self.affinity = Affinity(self.seconds, self.clock)
        self.cycle = AffinityCycle(self.affinity)
        self.cycle.update([OWN, *map(model_queue, self.queues)])
        self.since = dict.fromkeys(self.queues, 0.0)

    def draw(self, jobs: int) -> "Machine":
        """Draw so many jobs, as kombu and the worker do it: ask, be given the first, draw, ask again."""
        for _ in range(jobs):
            asked = self.cycle.consume(len(self.queues) + 1)
            queue = next((q for q in asked if self.queues.get(q.removeprefix("model."), 0)), None)
            if queue is None:
                self.clock.now += 1
                continue
            model = queue.removeprefix("model.")
            self.cycle.rotate(queue)
            waited = self.clock.now - self.since[model]
            self.waited[model] = max(self.waited.get(model, 0.0), waited)
            self.queues[model] -= 1
            if self.drawn[-1:] != [model]:
                self.clock.now += self.load_seconds
            self.affinity.stay_with(model)
            self.drawn.append(model)
            self.clock.now += 1
            self.since[model] = self.clock.now
        return self

    @property
    def swaps(self) -> int:
        """Return how often the model changed."""
        return sum(before != after for before, after in pairwise(self.drawn))


def test_a_machine_stays_with_its_model_while_others_have_not_waited_long() -> None:
    machine = Machine(20, {"a": 1000, "b": 1000}).draw(200)

    assert machine.swaps <= 200 / 20 + 1
    assert set(machine.drawn) == {"a", "b"}


def test_without_affinity_every_queue_has_its_turn() -> None:
    machine = Machine(0, {"a": 1000, "b": 1000, "c": 1000}).draw(33)

    turns = machine.drawn[3:]
    assert sorted(turns[:3]) == ["a", "b", "c"]
    assert turns == turns[:3] * 10


@pytest.mark.parametrize("models", [2, 4, 10])
def test_no_queue_waits_longer_than_the_seconds_and_one_job_of_each_queue_that_waits(models: int) -> None:
    machine = Machine(20, {f"m{k}": 1000 for k in range(models)}).draw(500)

    assert len(machine.waited) == models
    assert max(machine.waited.values()) <= 20 + (models - 1)


@pytest.mark.parametrize("models", [3, 4, 6])
def test_with_many_busy_models_a_machine_still_draws_more_than_it_changes_pipelines(models: int) -> None:
    machine = Machine(20, {f"m{k}": 1000 for k in range(models)}, load_seconds=5).draw(500)

    part = 20 / (models - 1)
    assert machine.swaps <= 500 / part + models
    assert max(machine.waited.values()) <= 20 + (models - 1) * (5 + 1) + 1


def test_a_job_for_another_model_waits_for_the_seconds_and_the_running_job_at_most() -> None:
    machine = Machine(20, {"a": 1000, "b": 0}).draw(30)
    machine.queues["b"] = 1
    machine.since["b"] = machine.clock.now

    machine.draw(25)

    assert machine.waited["b"] <= 20 + 1
    assert machine.drawn[30:].count("b") == 1


def test_an_empty_queue_costs_no_swap() -> None:
    machine = Machine(5, {"a": 1000, "b": 0, "c": 0}).draw(100)

    assert machine.swaps == 0


def test_a_machine_that_was_idle_stays_with_the_model_that_is_loaded() -> None:
    machine = Machine(20, {"a": 1, "b": 0}).draw(100)
    machine.queues.update(a=3, b=3)

    machine.draw(4)

    assert machine.drawn == ["a", "a", "a", "a", "b"]


def test_the_queue_of_the_machine_itself_comes_first() -> None:
    affinity = Affinity(20)
    affinity.stay_with("a")

    assert affinity.order([model_queue("a"), model_queue("b"), OWN])[0] == OWN


def test_what_was_served_is_remembered_when_the_connection_to_the_broker_is_made_anew() -> None:
    clock = Clock()
    affinity = Affinity(20, clock)
    affinity.order([model_queue("a"), model_queue("b")])
    AffinityCycle(affinity).rotate(model_queue("a"))
    affinity.stay_with("a")
    clock.now = 25.0

    anew = AffinityCycle(affinity)
    anew.update([model_queue("a"), model_queue("b")])

    assert anew.consume(2) == [model_queue("b"), model_queue("a")]
