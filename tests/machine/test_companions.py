"""LoRAs and the like are brought to a machine by the order that needs them first."""

import json
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from app.core.lifecycle import JobState
from provisioning import receipts, status, uses
from provisioning.settings import Settings
from tasks.machine.companions import CompanionMissing, OnDemand
from tasks.machine.drivers.contract import DrawingCancelled, ModelFiles, Step
from tasks.machine.proofs import Receipts
from tasks.machine.shelf import trigger_words
from tasks.machine.watch import files_of
from tasks.machine.work import Worker
from tests.builders import MODEL, a_job, a_model, the_job
from tests.provisioning.conftest import Fleet
from tests.provisioning.origin import Origin
from tests.support.drivers import ScriptedDriver
from tests.support.drivers import files_of as find


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Nothing here depends on the kind of database."""
    return sqlite_url


SLOW = 20_000
"""Bytes a second."""


def a_file(metadata: dict[str, str] | None = None, size: int = 64) -> bytes:
    """Make a safetensors file of one matrix of a LoRA."""
    tensor = {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}
    header = json.dumps({"__metadata__": metadata or {}, "lora_unet_x.lora_up.weight": tensor}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(size)


@pytest.fixture
def catalogue() -> Iterator[Fleet]:
    """Run a catalogue that answers, and an origin with files, at one address."""
    with Origin() as running:
        yield Fleet(running)


@pytest.fixture
def bring(catalogue: Fleet, tmp_path: Path) -> Callable[..., OnDemand]:
    """Return what makes the one who brings things, with settings of its own."""

    def make(**more: Any) -> OnDemand:
        given = {"allow_private_addresses": True, "pause_seconds": 0.01} | more
        settings = Settings(fleet_url=catalogue.url, models_dir=tmp_path / "models", **given)
        return OnDemand(settings, partial(files_of, settings.models_dir))

    return make


def add(catalogue: Fleet, model_id: str, body: bytes | None = None, **more: Any) -> bytes:
    """Put a LoRA into the catalogue, and its file onto the origin."""
    body = a_file() if body is None else body
    how = {"bytes_per_second": more.pop("bytes_per_second")} if "bytes_per_second" in more else {}
    url = catalogue.origin.serve(f"/{model_id}.safetensors", body, **how)
    name = f"{model_id}.safetensors"
    catalogue.add(model_id, url, body, **({"name": name, "save_path": f"loras/{name}", "file_size_gb": None} | more))
    return body


def note(steps: list[str]) -> Callable[[Step], None]:
    return lambda step: steps.append(step.phase)


def test_what_is_not_here_is_brought_proved_and_called_by_its_base(
    catalogue: Fleet, bring: Callable[..., OnDemand]
) -> None:
    body, steps, on_demand = add(catalogue, "fur"), list[str](), bring()

    found = on_demand(["fur"], {"fur": "sdxl"}, note(steps))
    again = on_demand(["fur"], {"fur": "sdxl"}, note([]))

    assert found["fur"].path.read_bytes() == body
    assert (found["fur"].base, set(steps)) == ("sdxl", {"provisioning"})
    assert again == found
    assert len([asked for asked in catalogue.origin.asked if asked.path == "/fur.safetensors"]) <= 2  # it was looked at


def test_nobody_declares_them_needed(catalogue: Fleet, bring: Callable[..., OnDemand], tmp_path: Path) -> None:
    add(catalogue, "fur")
    bring()(["fur"], {}, note([]))

    assert status.read(tmp_path / "models").models["fur"].needed is False


@pytest.mark.parametrize(
    ("model_id", "more", "told", "permanent"),
    [
        ("unknown", None, "unknown cannot be had", True),
        ("gone", {"download": "/nowhere"}, "404", True),
        ("wrong", {"hash": "0" * 64}, "correct the hash", True),
        ("huge", {"size_bytes": 10**15}, "GB are free", False),
    ],
)
def test_what_cannot_be_had_is_told_with_provisionings_diagnosis(
    catalogue: Fleet,
    bring: Callable[..., OnDemand],
    model_id: str,
    more: dict[str, Any] | None,
    told: str,
    permanent: bool,
) -> None:
    if more is not None:
        address = more.pop("download", None)
        add(catalogue, model_id, **more)
        if address:
            catalogue.entries[model_id]["download_url"] = catalogue.url + address

    with pytest.raises(CompanionMissing, match=told) as caught:
        bring()([model_id], {}, note([]))

    assert (caught.value.code, caught.value.permanent) == ("companion_missing", permanent)


def test_a_download_that_nobody_wants_any_more_stops_and_is_resumed(
    catalogue: Fleet, bring: Callable[..., OnDemand], tmp_path: Path
) -> None:
    body = add(catalogue, "big", a_file(size=200_000), bytes_per_second=SLOW)
    on_demand, looks = bring(), 0

    def cancel(_: Step) -> None:
        nonlocal looks
        looks += 1
        if status.read(tmp_path / "models").models.get("big", status.ModelStatus()).bytes_done > 0:
            raise DrawingCancelled

    with pytest.raises(DrawingCancelled):
        on_demand(["big"], {}, cancel)
    assert receipts.load(tmp_path / "models", "big") is None
    assert [each for each in threading.enumerate() if each.name == "companions"] == []

    catalogue.origin.files["/big.safetensors"].bytes_per_second = None
    assert on_demand(["big"], {}, note([]))["big"].path.read_bytes() == body


def test_they_go_first_when_room_is_short_but_never_while_they_draw(
    catalogue: Fleet, bring: Callable[..., OnDemand], tmp_path: Path
) -> None:
    for model_id in ("first", "second", "third"):
        add(catalogue, model_id, a_file({"name": model_id}, size=4000), file_size_gb=4200 / 1e9)
    on_demand, models_dir = bring(disk_budget=9000), tmp_path / "models"

    on_demand(["first"], {}, note([]))
    on_demand(["second"], {}, note([]))
    with uses.leased(models_dir, "first"):
        on_demand(["third"], {}, note([]))

    assert receipts.ready_models(models_dir) == {"first", "third"}


def test_what_lies_here_is_told_of_with_the_words_of_its_file(
    catalogue: Fleet, bring: Callable[..., OnDemand], tmp_path: Path
) -> None:
    add(catalogue, "fur", a_file({"modelspec.trigger_phrase": "fluffy, sks cat"}))
    bring()(["fur"], {}, note([]))

    told = Receipts(tmp_path / "models", ("a-checkpoint",)).holdings(frozenset())

    (fur,) = [holding for holding in told if holding["model_id"] == "fur"]
    assert (fur["state"], fur["trigger_words"]) == ("ready", ["fluffy", "sks cat"])
    assert {holding["model_id"]: holding["state"] for holding in told}["a-checkpoint"] == "wanted"


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({}, ()),
        ({"modelspec.trigger_phrase": "  sks cat "}, ("sks cat",)),
        (
            {"ss_tag_frequency": json.dumps({"10_cat": {"sks cat": 20, "grass": 3, "sitting": 19}})},
            ("sks cat", "sitting"),
        ),
        ({"ss_tag_frequency": json.dumps({"a": {"x": 4}, "b": {"x": 1, "y": 5}})}, ("x", "y")),
        ({"ss_tag_frequency": "{broken"}, ()),
        ({"ss_tag_frequency": "[1, 2]"}, ()),
        ({"modelspec.trigger_phrase": "a", "ss_tag_frequency": json.dumps({"1_b": {"b": 3}})}, ("a",)),
    ],
)
def test_trigger_words_are_read_from_metadata(metadata: dict[str, str], words: tuple[str, ...]) -> None:
    assert trigger_words(metadata) == words


def test_the_device_is_free_and_nothing_is_evicted_while_something_arrives(
    fleet: Any, drawing_worker: Worker, scripted: ScriptedDriver
) -> None:
    held, seen = list[str](), dict[str, Any]()

    @contextmanager
    def lease(model_id: str) -> Iterator[None]:
        held.append(model_id)
        try:
            yield
        finally:
            held.remove(model_id)

    def bring(ids: Sequence[str], bases: Any, on_step: Callable[[Step], None]) -> dict[str, ModelFiles]:
        on_step(Step("provisioning", 0, 0, 0))
        seen.update(held=list(held), is_busy=drawing_worker.device_lock.locked(), bases=dict(bases))
        return {each: find(each, bases[each]) for each in ids}

    drawing_worker.lease, drawing_worker.companions_of = lease, bring
    scripted.meanwhile = lambda _: seen.update(while_drawing=list(held))
    a_model(fleet, MODEL)
    a_model(fleet, "fur", kind="lora", base="sdxl")
    job = a_job(fleet, prompt="a cat <lora:fur:0.5>")

    drawing_worker.run(job.id)

    assert the_job(fleet, job.id).state == JobState.COMPLETED
    assert seen == {"held": [MODEL, "fur"], "is_busy": False, "bases": {"fur": "sdxl"}, "while_drawing": [MODEL, "fur"]}
    assert scripted.drawn[0].companions["fur"].base == "sdxl"
    assert held == []
    assert the_job(fleet, job.id).attempts[0].timings["provisioning"] >= 0
