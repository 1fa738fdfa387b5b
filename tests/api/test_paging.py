"""Every list of the v1 dialect: pages, filters, orders; on both kinds of database."""

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app.core.fleet import Fleet
from app.core.lifecycle import HoldingState
from app.core.machines import HoldingReport
from tests.builders import MODEL, a_completed_job, a_job, a_machine, a_model
from tests.support.fakes import Clock
from tests.support.web import Client

Make = Callable[[Fleet, int], str]
"""Makes the thing with a number; returns its id."""


NOUNS: dict[str, tuple[str, Make | None]] = {
    "jobs": ("job_id", lambda fleet, _: str(a_job(fleet).id)),
    "images": ("image_id", lambda fleet, _: str(a_completed_job(fleet).images[0].id)),
    "models": ("id", lambda fleet, number: a_model(fleet, f"model-{number:02}").id),
    "machines": ("machine_id", lambda fleet, number: a_machine(fleet, f"machine-{number:02}")),
    "engines": ("engine_id", None),
}


def pages(client: Client, noun: str, **query: Any) -> Iterator[list[str]]:
    """Read a list page by page, as a client does."""
    after: dict[str, str] = {}
    while True:
        answer = client.get(f"/v1/{noun}", query_string={**query, **after})
        assert answer.status_code == 200, answer.text
        yield [each[NOUNS[noun][0]] for each in answer.json[noun]]
        if answer.json["next"] is None:
            return
        after = {"after": answer.json["next"]}


def make(client: Client, fleet: Fleet, noun: str, number: int) -> str:
    made = NOUNS[noun][1]
    if made is not None:
        return made(fleet, number)
    engine_id: str = client.post("/v1/engines", json={"checkpoint": MODEL}).json["engine_id"]
    return engine_id


@pytest.mark.parametrize(("noun", "sort"), [(noun, "") for noun in NOUNS] + [("models", "-name"), ("jobs", "status")])
def test_no_page_skips_or_repeats_what_was_there_when_others_come_meanwhile(
    client: Client, fleet: Fleet, clock: Clock, noun: str, sort: str
) -> None:
    a_model(fleet)
    there = []
    for number in range(0, 10, 2):
        there.append(make(client, fleet, noun, number))
        clock.advance(0.000001 if number % 4 else 0)  # two of each moment

    found: list[str] = []
    for count, page in enumerate(pages(client, noun, limit=2, **({"sort": sort} if sort else {}))):
        assert len(page) <= 2
        found += page
        make(client, fleet, noun, 2 * count + 1)
        clock.advance(0.000001)

    assert len(found) == len(set(found))
    assert set(there) <= set(found)


def a_place(*parts: Any) -> str:
    """Make what looks like a place."""
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode()


HOSTILE_PLACES = [
    a_place("-created_at", 7, 7),
    a_place("-created_at", "2026-01-01T00:00:00+00:00", 7),
    a_place("-created_at", "0001-01-01T00:00:00+14:00", "00000000-0000-0000-0000-000000000007"),
    a_place("-created_at", "\x00", "\ud800"),
    a_place("priority", 10**30, "00000000-0000-0000-0000-000000000007"),
    a_place("priority", True, "00000000-0000-0000-0000-000000000007"),
    a_place("priority", [], {}),
    a_place("status", "no-state", "00000000-0000-0000-0000-000000000007"),
    a_place("model_id", "\x00", "00000000-0000-0000-0000-000000000007"),
    a_place("colour", "red", "00000000-0000-0000-0000-000000000007"),
    a_place("-created_at"),
    base64.urlsafe_b64encode(b"[" * 1000).decode(),
    "a" * 5000,
]


def test_places_that_never_were_are_refused_and_never_a_failure(client: Client) -> None:
    answers = [client.get("/v1/jobs", query_string={"after": place}) for place in HOSTILE_PLACES]

    assert [answer.status_code for answer in answers] == [422] * len(HOSTILE_PLACES)


WRONG_EVERYWHERE = ("limit=0", "limit=x", "sort=colour", "after=x", "after=", "after=W10=", "colour=red")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_wrong_parameter_is_named(client: Client) -> None:
    cases = [
        *((noun, wrong) for noun in NOUNS for wrong in WRONG_EVERYWHERE),
        ("jobs", "status=ready"),
        ("jobs", "batch_id=x"),
        ("jobs", "before=yesterday"),
        ("engines", "status=queued"),
        ("models", "status=ready"),
        ("models", "availability=Ready"),
        ("models", "kind=Checkpoint"),
        ("models", "model_type=checkpoint"),
        ("machines", "alive=perhaps"),
        ("images", "job_id=x"),
    ]

    answers = {case: client.get(f"/v1/{case[0]}?{case[1]}") for case in cases}

    assert {case for case, answer in answers.items() if answer.status_code != 422} == set()
    for (_, wrong), answer in answers.items():
        assert list(answer.json["error"]["fields"]) == [wrong.partition("=")[0]]


def test_a_place_belongs_to_its_list_and_its_order(client: Client, fleet: Fleet) -> None:
    for number in range(3):
        a_model(fleet, f"model-{number}")
    by_name = client.get("/v1/models?limit=1&sort=-name").json["next"]

    elsewhere = client.get("/v1/jobs", query_string={"after": by_name})
    otherwise = client.get("/v1/models", query_string={"after": by_name, "sort": "name"})
    on = client.get("/v1/models", query_string={"after": by_name})

    assert (elsewhere.status_code, otherwise.status_code) == (422, 422)
    assert "sorted by -name" in otherwise.json["error"]["message"]
    assert [model["id"] for model in on.json["models"]] == ["model-1", "model-0"]


@pytest.mark.parametrize("value", ["é", "\x00", "🙂" * 100])
def test_places_of_any_text_are_taken_or_refused_and_never_fail(client: Client, fleet: Fleet, value: str) -> None:
    for name in ("a", value.replace("\x00", "b")):
        a_model(fleet, f"m-{len(name)}-{ord(name[0])}", name=name)

    assert len(list(pages(client, "models", limit=1, sort="name"))) == 2


def test_models_are_filtered_by_what_is_said_of_them(client: Client, fleet: Fleet) -> None:
    a_model(fleet, "a", kind="lora", base="SDXL", variant="fp16", tags=["photo", 'qu"ote'], name="Fur.safetensors")
    a_model(fleet, "b", kind="lora", base="SD", tags=["photos"])
    a_model(fleet, "c", base="SDXL", tags=["é%_"])

    def found(query: dict[str, str]) -> str:
        return "".join(model["id"] for model in client.get("/v1/models", query_string=query).json["models"])

    assert found({"kind": "lora"}) == found({"model_type": "LoRA"}) == "ab"
    assert found({"base": "SDXL"}) == found({"model_base": "SDXL"}) == "ac"
    assert found({"base": "SDXL", "kind": "lora"}) == found({"variant": "fp16"}) == "a"
    assert [found({"tag": tag}) for tag in ("photo", "photos", 'qu"ote', "é%_", "hoto", "%")] == [
        "a",
        "b",
        "a",
        "c",
        "",
        "",
    ]
    assert found({"search": "FUR"}) == "a"
    assert [found({"search": text}) for text in ("%", "nothing", "\x00")] == ["", "", ""]
    assert found({"sort": "-id"}) == "cba"


def test_models_are_filtered_by_how_far_the_fleet_is(client: Client, fleet: Fleet) -> None:
    for model_id in ("absent", "coming", "ready", "failed"):
        a_model(fleet, model_id)
    states = {"coming": HoldingState.WANTED, "ready": HoldingState.READY, "failed": HoldingState.ERROR}
    a_machine(fleet, holdings=[HoldingReport(model_id=name, state=state) for name, state in states.items()])

    def found(query: str) -> set[str]:
        return {model["id"] for model in client.get(f"/v1/models?{query}").json["models"]}

    assert found("status=Ready") == {"ready"}
    assert found("status=Downloading") == {"coming", "absent"}
    assert found("status=Ready,Error") == {"ready", "failed"}
    assert found("availability=absent") == {"absent"}
    assert client.get("/v1/models?status=Ready&availability=ready").status_code == 422


def test_machines_are_filtered_and_sorted(client: Client, fleet: Fleet, clock: Clock) -> None:
    a_machine(fleet, "silent")
    clock.advance(60)
    a_machine(fleet, "alive", ready_for=[MODEL])
    clock.advance(1)
    a_machine(fleet, "drained")
    client.post("/v1/machines/drained/drain")

    def found(query: str) -> list[str]:
        return [machine["machine_id"] for machine in client.get(f"/v1/machines?{query}").json["machines"]]

    assert found("") == ["alive", "drained", "silent"]
    assert found("alive=true") == ["alive", "drained"]
    assert found("alive=false") == ["silent"]
    assert found("drained=true") == ["drained"]
    assert found(f"model_id={MODEL}") == ["alive"]
    assert found("sort=-last_seen_at") == ["drained", "alive", "silent"]


def test_pictures_are_listed_with_their_jobs_and_only_when_they_may_be_seen(
    client: Client, fleet: Fleet, clock: Clock
) -> None:
    first = a_completed_job(fleet, n=2)
    clock.advance(1)
    other = a_completed_job(fleet, model_id="another")
    a_job(fleet)

    listed = client.get("/v1/images").json["images"]

    assert [image["job_id"] for image in listed] == [str(other.id), str(first.id), str(first.id)]
    assert client.get(listed[0]["url"]).status_code == 200
    assert len(client.get(f"/v1/images?job_id={first.id}").json["images"]) == 2
    assert [image["model_id"] for image in client.get("/v1/images?model_id=another").json["images"]] == ["another"]
    assert client.get("/v1/images?sort=created_at").json["images"][-1]["job_id"] == str(other.id)
