"""The placement adviser: what it proposes, and what it never does, whatever the fleet looks like."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.placement import Proposal, advise
from app.core.placement_facts import Facts, MachineFacts, ModelFacts
from app.core.roster import Entry, Sizes

GB = 10**9
NAMES = [f"model-{letter}" for letter in "abcdef"]
PARTS = ["vae", "encoder"]


def sizes(known: Mapping[str, int], parts: Mapping[str, Sequence[str]] | None = None) -> Sizes:
    """Make a catalogue of models with their gigabytes and dependencies."""
    return Sizes({name: Entry(name, (parts or {}).get(name, ()), size * GB) for name, size in known.items()})


def asked(model_id: str, jobs: int = 1, work: float = 0.5, **more: Any) -> ModelFacts:
    return ModelFacts(id=model_id, jobs=jobs, work=work, **more)


def facts(machines: Sequence[MachineFacts], models: Sequence[ModelFacts], known: Sizes, speed: float = 1e8) -> Facts:
    return Facts(machines, {model.id: model for model in models}, known, speed)


def only(found: Facts, machine_id: str = "gpu-1") -> Proposal:
    (proposal,) = [each for each in advise(found).proposals if each.machine_id == machine_id]
    return proposal


def test_a_model_that_is_asked_for_and_lies_nowhere_gets_a_machine_and_a_sentence() -> None:
    found = only(facts([MachineFacts(id="gpu-1")], [asked("flux", jobs=3)], sizes({"flux": 12})))

    assert found.needed_next == ["flux"]
    assert found.explanation == (
        "add flux: 3 jobs of it wait or run, and no machine that takes jobs is to hold it; 12.0 GB to fetch, about "
        "2 min at the measured 100 MB/s"
    )
    assert (found.bytes_to_fetch, found.seconds_to_fetch) == (12 * GB, 120.0)


def test_what_lies_on_a_disk_already_is_preferred_to_a_download() -> None:
    here = MachineFacts(id="gpu-2", on_disk=frozenset({"flux"}))
    advice = advise(facts([MachineFacts(id="gpu-1"), here], [asked("flux")], sizes({"flux": 12})))

    assert [each.adds for each in advice.proposals] == [[], ["flux"]]
    assert "its files are there already" in advice.proposals[1].explanation


def test_dependencies_are_fetched_once() -> None:
    known = sizes({"flux": 12, "flux-2": 12, "vae": 1}, {"flux": ["vae"], "flux-2": ["vae"]})
    machine = MachineFacts(id="gpu-1", needed=("flux-2",), on_disk=frozenset({"flux-2", "vae"}))

    assert only(facts([machine], [asked("flux")], known)).bytes_to_fetch == 12 * GB


def test_a_full_disk_makes_room_by_what_nobody_asks_for() -> None:
    known = sizes({"flux": 10, "idle": 8, "busy": 8, "small": 1})
    machine = MachineFacts(
        id="gpu-1", needed=("busy", "small", "idle"), on_disk=frozenset({"busy", "idle", "small"}), disk_free=4 * GB
    )
    models = [asked("flux"), asked("busy"), ModelFacts(id="idle"), ModelFacts(id="small")]

    found = only(facts([machine], models, known))

    assert found.needed_next == ["busy", "small", "flux"]
    assert "drop idle to make room: nobody asked for it in the last hour, and no other machine holds it" in (
        found.explanation
    )


def test_the_last_place_of_an_idle_model_is_taken_last() -> None:
    known = sizes({"flux": 10, "rare": 10, "common": 10})
    machines = [
        MachineFacts(id="gpu-1", needed=("rare",), on_disk=frozenset({"rare"}), disk_free=0),
        MachineFacts(id="gpu-2", needed=("common",), on_disk=frozenset({"common"}), disk_free=0),
        MachineFacts(id="gpu-3", needed=("common",), on_disk=frozenset({"common"}), disk_free=0),
    ]
    advice = advise(facts(machines, [asked("flux"), ModelFacts(id="rare"), ModelFacts(id="common")], known))

    assert [each.drops for each in advice.proposals] == [[], ["common"], []]
    assert "gpu-3 holds it too" in advice.proposals[1].explanation


def test_where_only_models_with_jobs_could_make_room_it_says_what_would_help() -> None:
    machine = MachineFacts(id="gpu-1", needed=("busy",), on_disk=frozenset({"busy"}), disk_free=0)
    advice = advise(facts([machine], [asked("flux"), asked("busy")], sizes({"flux": 10, "busy": 10})))

    assert advice.proposals[0].explanation == "nothing to change"
    assert "start one with MACHINE_MODELS_NEEDED=flux, or give one a larger disk" in advice.unplaced["flux"]


def test_a_model_comes_to_no_device_that_is_too_small_for_it() -> None:
    machines = [MachineFacts(id="gpu-1", memory=8 * GB), MachineFacts(id="gpu-2", memory=24 * GB)]
    models = [asked("flux", memory=20 * GB), asked("giant", memory=40 * GB)]
    advice = advise(facts(machines, models, sizes({"flux": 12, "giant": 30})))

    assert [each.adds for each in advice.proposals] == [[], ["flux"]]
    assert "40.0 GB of memory" in advice.unplaced["giant"]


def test_a_busy_model_gets_more_machines_and_no_more_than_help() -> None:
    machines = [MachineFacts(id=f"gpu-{number}") for number in range(1, 6)]
    machines[0] = replace(machines[0], needed=("flux",), on_disk=frozenset({"flux"}))

    advice = advise(facts(machines, [asked("flux", jobs=400, work=2.5)], sizes({"flux": 6})))

    assert sum("flux" in each.needed_next for each in advice.proposals) == 3
    assert "2.5 machines' worth of work, and its machine would not be through in time" in (
        advice.proposals[1].explanation
    )


def test_a_machine_that_takes_no_jobs_is_left_alone_and_does_not_count() -> None:
    drained = MachineFacts(id="gpu-1", needed=("flux",), on_disk=frozenset({"flux"}), why_left_alone="left alone: x")
    advice = advise(facts([drained, MachineFacts(id="gpu-2")], [asked("flux")], sizes({"flux": 12})))

    assert advice.proposals[0].explanation == "left alone: x"
    assert advice.proposals[1].adds == ["flux"]


def test_without_a_machine_it_says_what_to_start() -> None:
    assert "MACHINE_MODELS_NEEDED=flux" in advise(facts([], [asked("flux")], sizes({"flux": 12}))).unplaced["flux"]


@st.composite
def fleets(draw: st.DrawFn) -> Facts:
    """Draw a fleet: any demand, any disks, models that depend on each other, machines that take no jobs."""
    known = sizes(
        {name: draw(st.integers(1, 20)) for name in [*NAMES, *PARTS]},
        {name: draw(st.lists(st.sampled_from([*NAMES, *PARTS]), max_size=2)) for name in NAMES},
    )
    models = [
        ModelFacts(
            id=name,
            jobs=(jobs := draw(st.sampled_from([0, 0, 1, 50]))),
            recent=draw(st.sampled_from([0, jobs])),
            work=jobs and draw(st.floats(0.01, 6)),
            memory=draw(st.sampled_from([None, 8 * GB, 24 * GB])),
        )
        for name in NAMES
    ]
    machines = []
    for number in range(draw(st.integers(0, 5))):
        needed = draw(st.lists(st.sampled_from([*NAMES, "unknown"]), max_size=4))
        left = draw(st.sets(st.sampled_from([*NAMES, *PARTS]), max_size=2))
        machines.append(
            MachineFacts(
                id=f"gpu-{number}",
                needed=tuple(needed),
                on_disk=known.closure(needed) | left,
                disk_free=draw(st.sampled_from([None, 0, 5 * GB, 30 * GB])),
                memory=draw(st.sampled_from([None, 10 * GB, 80 * GB])),
                pinned=frozenset(draw(st.sets(st.sampled_from(NAMES), max_size=1))),
                why_left_alone=draw(st.sampled_from([None, None, None, "drained"])),
            )
        )
    return Facts(machines, {model.id: model for model in models}, known, draw(st.sampled_from([None, 1e8])))


def followed(found: Facts) -> Facts:
    """Return the fleet as it is once everybody has done what was proposed."""
    machines = []
    for machine, proposal in zip(found.machines, advise(found).proposals, strict=True):
        needs = found.sizes.closure(proposal.needed_next)
        gone = found.sizes.closure(proposal.drops) - needs
        came = needs - machine.on_disk
        free = machine.disk_free
        if free is not None:
            free += weight(found, gone & machine.on_disk) - weight(found, came)
        machines.append(
            replace(
                machine, needed=tuple(proposal.needed_next), on_disk=(machine.on_disk - gone) | needs, disk_free=free
            )
        )
    return replace(found, machines=machines)


def weight(found: Facts, model_ids: frozenset[str]) -> int:
    return sum(found.sizes.entries[each].size or 0 for each in model_ids)


@settings(max_examples=60)
@given(fleets())
def test_whatever_the_fleet_looks_like_the_advice_keeps_its_word(found: Facts) -> None:
    advice = advise(found)
    after = followed(found)

    assert advice == advise(
        replace(found, models=dict(reversed(list(found.models.items()))))
    )  # the same for the same facts
    for machine, then, proposal in zip(found.machines, after.machines, advice.proposals, strict=True):
        assert proposal.explanation
        # Nothing is taken that somebody asks for or that an engine holds, and nothing the catalogue does not know.
        for dropped in proposal.drops:
            assert not found.models[dropped].is_asked_for
            assert dropped not in machine.pinned
        assert set(proposal.needed_next) == (set(machine.needed) | set(proposal.adds)) - set(proposal.drops)
        assert then.disk_free is None or then.disk_free >= 0
        assert proposal.bytes_to_fetch == weight(found, then.on_disk - machine.on_disk)
        for added in proposal.adds:
            memory = found.models[added].memory
            assert memory is None or machine.memory is None or memory <= machine.memory
        if machine.why_left_alone:
            assert (proposal.adds, proposal.drops) == ([], [])
    # Who follows it is proposed nothing more.
    assert not any(each.adds or each.drops for each in advise(after).proposals)


@settings(max_examples=60)
@given(fleets())
def test_a_model_with_jobs_keeps_a_machine_or_gets_one_or_is_told_of(found: Facts) -> None:
    advice = advise(found)

    def holders(of: Facts, model_id: str) -> int:
        return sum(model_id in each.needed for each in of.machines if each.why_left_alone is None)

    after = followed(found)
    for model in found.models.values():
        if model.jobs:
            assert holders(after, model.id) >= holders(found, model.id)
            assert holders(after, model.id) > 0 or model.id in advice.unplaced


@pytest.mark.parametrize("speed", [None, 0.0])
def test_a_speed_that_was_not_measured_is_no_reason_to_say_nothing(speed: float | None) -> None:
    found = replace(facts([MachineFacts(id="gpu-1")], [asked("flux")], sizes({"flux": 12})), speed=speed)

    assert only(found).seconds_to_fetch is None
    assert only(found).adds == ["flux"]
