"""Models that machines offer from servers of their own: how they come into the catalogue, and under which ids."""

from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from sqlalchemy import event

from app.core import models
from app.core.fleet import Fleet
from app.core.models import CatalogueEntry
from tests.builders import MACHINE, a_job, a_model, the_model
from tests.support.web import Client

DREAM = sha256(b"dream").hexdigest()
OTHER = sha256(b"other").hexdigest()


def offer(client: Client, *models: dict[str, Any], machine_id: str = MACHINE) -> list[list[str]]:
    answer = client.post("/machines/v1/models", json={"machine_id": machine_id, "models": list(models)})
    assert answer.status_code == 200, answer.text
    ids: list[list[str]] = answer.json["ids"]
    return ids


def a_checkpoint(name: str = "dream", **more: Any) -> dict[str, Any]:
    return {"name": name, "kind": "checkpoint"} | more


def test_an_unknown_model_gets_an_entry_that_says_where_it_is(client: Client, fleet: Fleet) -> None:
    ids = offer(client, a_checkpoint(file="dream.safetensors", sha256=DREAM), {"name": "detail", "kind": "lora"})

    dream, detail = the_model(fleet, "dream"), the_model(fleet, "detail")
    assert ids == [["dream"], ["detail"]]
    assert (dream.name, dream.hash, dream.kind) == ("dream.safetensors", f"sha256:{DREAM}", "checkpoint")
    assert (dream.origin, dream.download_url) == ("a1111", "a1111://checkpoint/dream")
    assert (detail.kind, detail.hash) == ("lora", None)


def test_offering_again_changes_nothing_and_another_machines_same_model_is_the_same(
    client: Client, fleet: Fleet
) -> None:
    first = offer(client, a_checkpoint(sha256=DREAM))
    before = the_model(fleet, "dream").updated_at

    assert offer(client, a_checkpoint(sha256=DREAM)) == offer(client, a_checkpoint(), machine_id="gpu-2") == first
    assert the_model(fleet, "dream").updated_at == before


@pytest.mark.parametrize("hash_", [DREAM, f"sha256:{DREAM.upper()}", DREAM[:10]])
def test_a_model_of_the_same_hash_is_that_model_whatever_it_is_called(client: Client, fleet: Fleet, hash_: str) -> None:
    a_model(fleet, "my-dream", hash=hash_)

    assert offer(client, a_checkpoint("something_else", sha256=DREAM)) == [["my-dream"]]
    assert client.get("/v1/models/something_else").status_code == 404


def test_a_hash_that_becomes_known_adds_an_id_and_takes_none_away(client: Client, fleet: Fleet) -> None:
    a_model(fleet, "my-dream", hash=DREAM)
    before = offer(client, a_checkpoint())
    job = a_job(fleet, model_id="dream")

    after = offer(client, a_checkpoint(sha256=DREAM))

    assert before == [["dream"]]
    assert sorted(after[0]) == ["dream", "my-dream"]
    assert the_model(fleet, job.model_id).hash == f"sha256:{DREAM}"


def test_a_name_alone_is_no_proof_that_it_is_the_same_model(client: Client, fleet: Fleet) -> None:
    a_model(fleet, "dream", hash=OTHER)

    assert offer(client, a_checkpoint(sha256=DREAM), a_checkpoint("dream")) == [["dream-a1111"], ["dream-a1111"]]
    assert the_model(fleet, "dream").hash == OTHER


def test_two_servers_with_different_files_of_one_name_get_two_ids(client: Client) -> None:
    first = offer(client, a_checkpoint(sha256=DREAM))
    second = offer(client, a_checkpoint(sha256=OTHER), machine_id="gpu-2")
    third = offer(client, a_checkpoint(sha256="0" * 64), machine_id="gpu-3")

    assert len({*first[0], *second[0], *third[0]}) == 3
    assert offer(client, a_checkpoint(sha256=OTHER)) == second


def test_a_lora_and_a_checkpoint_of_one_name_are_two_models(client: Client) -> None:
    assert offer(client, a_checkpoint("x"), {"name": "x", "kind": "lora"}) == [["x"], ["x-a1111"]]


@pytest.mark.parametrize(
    ("name", "model_id"),
    [("Mein Träumchen/v2 (final)", "Mein-Tr-umchen-v2-final"), ("../../etc", "etc"), ("夢", "checkpoint")],
)
def test_ids_are_made_legal(client: Client, name: str, model_id: str) -> None:
    assert offer(client, a_checkpoint(name)) == [[model_id]]


@pytest.mark.parametrize(
    "wrong",
    [{"name": ""}, {"name": "a\x00b"}, {"kind": "spoon"}, {"sha256": "abc"}, {"name": "\ud800"}],
    ids=["empty", "nul", "kind", "hash", "surrogate"],
)
def test_what_cannot_be_a_model_is_refused(client: Client, wrong: dict[str, Any]) -> None:
    body = {"machine_id": MACHINE, "models": [a_checkpoint() | wrong]}

    assert client.post("/machines/v1/models", json=body).status_code == 422


def test_many_offers_are_few_questions_to_the_database_and_twice_the_same_is_one_entry(
    client: Client, fleet: Fleet
) -> None:
    many = [{"name": f"detail {number}", "kind": "lora"} for number in range(400)]
    many += [a_checkpoint("dream"), a_checkpoint("dream", sha256=DREAM)]
    statements: list[str] = []
    event.listen(fleet.engine, "before_cursor_execute", lambda *told: statements.append(told[2]))

    first = offer(client, *many)
    asked, statements[:] = len(statements), []
    again = offer(client, *many)

    assert max(asked, len(statements)) < 10, statements
    assert again == first
    assert (first[0], first[399], first[400:]) == (["detail-0"], ["detail-399"], [["dream"], ["dream"]])
    assert the_model(fleet, "dream").hash == f"sha256:{DREAM}"


def test_an_id_that_somebody_takes_at_the_same_moment_stays_theirs(fleet: Fleet) -> None:
    entry = CatalogueEntry(id="dream", name="x", download_url="a1111://checkpoint/dream", save_path="a1111/x")
    with fleet.transaction() as tx:
        models.put_new(tx, [entry], origin="a1111")

    with fleet.transaction() as tx:
        models.put_new(tx, [replace(entry, name="another"), replace(entry, id="other")], origin="a1111")

    assert (the_model(fleet, "dream").name, the_model(fleet, "other").name) == ("x", "x")
