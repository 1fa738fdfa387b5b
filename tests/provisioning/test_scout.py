"""What will fail is told while the models before it are still brought, and the others' paths are left alone."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from provisioning import receipts, status
from provisioning.events import Event
from provisioning.provisioner import Provisioner
from provisioning.settings import Settings
from tests.provisioning.conftest import Fleet, Provision, some_bytes
from tests.provisioning.origin import Origin
from tests.provisioning.test_watching import Watched, held_until, is_ready, until
from tests.support.processes import WAIT_SECONDS


@pytest.fixture
def gate(origin: Origin, fleet: Fleet) -> Iterator[threading.Event]:
    """Put three models into the catalogue, `a`, `b` and `c`, that do not come before this is set."""
    opened = threading.Event()
    for name in "abc":
        body = some_bytes(1000, ord(name))
        fleet.add(name, origin.serve(f"/{name}", body), body)
        origin.always[f"/{name}"] = held_until(opened.is_set)
    yield opened
    opened.set()


def state_of(settings: Settings, model_id: str) -> tuple[str, str | None]:
    found = status.read(settings.models_dir).models.get(model_id)
    return (str(found.state), found.error.code if found.error else None) if found else ("", None)


def test_a_model_that_will_not_come_is_told_of_while_others_are_brought_and_comes_once_it_is_corrected(
    origin: Origin, fleet: Fleet, settings: Settings, watched: Watched, gate: threading.Event
) -> None:
    body = some_bytes(500)
    entry = fleet.add("late", origin.url + "/nowhere", body)
    watched("a", "b", "c", "late")

    until(lambda: state_of(settings, "late") == ("error", "gone_upstream"))
    until(lambda: [state_of(settings, name)[0] for name in "abc"] == ["downloading"] * 3)
    assert state_of(settings, "late") == ("error", "gone_upstream"), "it is told, and they have not come yet"
    entry["download_url"] = origin.serve("/late", body)
    until(lambda: state_of(settings, "late") == ("wanted", None))
    gate.set()

    until(is_ready(settings, "a", "b", "c", "late"))


def test_the_size_of_a_model_that_waits_is_known(
    origin: Origin, fleet: Fleet, settings: Settings, watched: Watched, gate: threading.Event
) -> None:
    body = some_bytes(500)
    fleet.add("late", origin.serve("/late", body), body, file_size_gb=None)
    watched("a", "b", "c", "late")

    def size() -> int | None:
        found = status.read(settings.models_dir).models.get("late")
        return found.bytes_total if found else None

    until(lambda: size() == len(body))

    assert state_of(settings, "late") == ("wanted", None)


def test_a_model_whose_content_lies_here_or_is_on_its_way_needs_no_origin(
    origin: Origin, fleet: Fleet, settings: Settings, provision: Provision
) -> None:
    body = some_bytes(500)
    for name in "abc":
        other = some_bytes(1000, ord(name))
        fleet.add(name, origin.serve(f"/{name}", other), other)
        origin.always[f"/{name}"] = held_until(is_ready(settings, "a"))
    origin.always["/a"] = held_until(lambda: bool(origin.requests("/nowhere")))
    fleet.add("here", origin.url + "/gone", body)
    fleet.add("twin", origin.url + "/gone", some_bytes(1000, ord("a")))
    fleet.add("never", origin.url + "/nowhere", some_bytes(10))
    place = settings.models_dir / "checkpoints" / "here.bin"
    place.parent.mkdir(parents=True)
    place.write_bytes(body)

    run = provision("a", "b", "c", "here", "twin", "never")

    assert run.outcome.ready == ("a", "b", "c", "here", "twin")
    assert run.code("never") == "gone_upstream"
    assert not origin.requests("/gone")


def test_an_id_that_is_not_in_the_catalogue_is_told_of_once(origin: Origin, fleet: Fleet, settings: Settings) -> None:
    told: list[Event] = []
    provisioner = Provisioner(replace(settings, retry_seconds=0.01), told.append)
    thread = threading.Thread(target=provisioner.run, args=(("nobody",),), kwargs={"watch": True}, daemon=True)
    thread.start()

    until(lambda: len(fleet.asked) >= 4)
    provisioner.stop.set()
    thread.join(WAIT_SECONDS)

    assert len([event for event in told if event.name == "notice"]) == 1


def test_of_two_models_that_want_one_path_the_second_never_touches_it_though_the_one_before_both_has_failed(
    origin: Origin, fleet: Fleet, settings: Settings
) -> None:
    bodies = {name: some_bytes(500, ord(name)) for name in "xy"}
    opened = threading.Event()
    path = {"save_path": "checkpoints/same.bin"}
    fleet.add("first", origin.url + "/nowhere", some_bytes(10), **path)
    for name, body in bodies.items():
        fleet.add(name, origin.serve(f"/{name}", body), body, **path)
        origin.always[f"/{name}"] = held_until(opened.is_set)
    told: list[Event] = []
    provisioner = Provisioner(replace(settings, retry_seconds=0.01), told.append)
    thread = threading.Thread(target=provisioner.run, args=(("first", "x", "y"),), kwargs={"watch": True}, daemon=True)
    thread.start()

    def is_asked_again() -> bool:
        asked = len(fleet.asked)
        until(lambda: len(fleet.asked) >= asked + 2)
        return True

    until(lambda: bool(origin.requests("/x") or origin.requests("/y")) and is_asked_again())
    opened.set()
    until(lambda: bool(receipts.ready_models(settings.models_dir)) and is_asked_again())
    provisioner.stop.set()
    thread.join(WAIT_SECONDS)

    errors = {event.fields["error"]["code"] for event in told if event.fields.get("error")}  # type: ignore[index]
    (winner,) = receipts.ready_models(settings.models_dir)
    (loser,) = set(bodies) - {winner}
    assert errors == {"gone_upstream", "path_conflict"}
    assert not origin.requests(f"/{loser}")
    assert (settings.models_dir / "checkpoints" / "same.bin").read_bytes() == bodies[winner]
