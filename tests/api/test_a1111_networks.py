"""LoRAs, VAEs and embeddings as Automatic1111's clients list, name and switch them off."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from flask.testing import FlaskClient

from app.api.application import make_application
from app.core.fleet import Fleet
from app.settings import Settings
from tests.builders import a_machine, a_model, the_job
from tests.support.fakes import RecordingDispatcher

API = "/a1111/sdapi/v1"


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Take one kind: what depends on it is asked in test_companions."""
    return sqlite_url


@pytest.fixture(autouse=True)
def catalogue(fleet: Fleet) -> None:
    """Have a checkpoint that a live machine is ready for, and what goes along with it."""
    a_model(fleet, "shapes", base="sd15")
    a_model(fleet, "fur", kind="lora", base="sd15", save_path="loras/Fluffy_v2.safetensors")
    a_model(fleet, "kl-f8", kind="vae", base="sd15", name="kl-f8.safetensors", save_path="vae/kl-f8.safetensors")
    a_model(fleet, "hands", kind="embedding", base="sd15", save_path="embeddings/bad-hands.safetensors")
    a_machine(fleet, ready_for=["shapes"])


@pytest.fixture
def hasty(fleet: Fleet, settings: Settings) -> FlaskClient:
    """Return a client of a server that waits for no picture."""
    return make_application(fleet, replace(settings, a1111_wait_seconds=0)).test_client()


@pytest.fixture
def placed(hasty: FlaskClient, fleet: Fleet, dispatcher: RecordingDispatcher) -> Callable[..., Any]:
    """Return what orders a picture, and reads what was ordered."""

    def place(**body: Any) -> Any:
        answer = hasty.post(f"{API}/txt2img", json={"prompt": "a cat"} | body)
        assert answer.status_code == 504, answer.text  # the job waits, and nobody waits for it
        return the_job(fleet, dispatcher.sent[-1].job_id).spec

    return place


def listed(client: FlaskClient, name: str) -> Any:
    return client.get(f"{API}/{name}").get_json()


def test_the_lists_are_the_catalogues(hasty: FlaskClient) -> None:
    (lora,) = listed(hasty, "loras")
    assert lora == {"name": "fur", "alias": "Fluffy_v2", "path": "loras/Fluffy_v2.safetensors", "metadata": {}}
    assert listed(hasty, "sd-vae") == [{"model_name": "kl-f8.safetensors", "filename": "vae/kl-f8.safetensors"}]
    assert set(listed(hasty, "embeddings")["loaded"]) == {"bad-hands"}
    assert listed(hasty, "embeddings")["skipped"] == {}


def test_a_prompt_names_loras_and_embeddings(placed: Callable[..., Any]) -> None:
    spec = placed(prompt="a cat <lora:Fluffy_v2:0.7>", negative_prompt="bad-hands, blurry")

    assert [(each["model_id"], each["weight"]) for each in spec["loras"]] == [("fur", 0.7)]
    assert spec["embeddings"] == ["hands"]


def test_networks_that_are_switched_off_leave_the_prompt(placed: Callable[..., Any]) -> None:
    spec = placed(prompt="a cat <lora:fur:0.7>", disable_extra_networks=True)

    assert (spec["prompt"], spec["loras"]) == ("a cat ", [])


@pytest.mark.parametrize("word", ["kl-f8", "kl-f8.safetensors"])
def test_a_vae_is_chosen_by_an_order_or_for_a_caller(placed: Callable[..., Any], hasty: FlaskClient, word: str) -> None:
    usual, ordered = placed(), placed(override_settings={"sd_vae": word})
    hasty.post(f"{API}/options", json={"sd_vae": word})

    assert (usual["vae_id"], ordered["vae_id"]) == (None, "kl-f8")
    assert placed()["vae_id"] == "kl-f8"
    assert placed(override_settings={"sd_vae": "Automatic"})["vae_id"] is None


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"prompt": "<lora:furry>"}, "<lora:furry>: no LoRA of the catalogue is called so; is it fur?"),
        ({"prompt": "<hypernet:fur>"}, "hypernetworks"),
        ({"override_settings": {"sd_vae": "nobody's"}}, 'VAE "nobody\'s" not found'),
    ],
)
def test_what_is_not_there_is_told_in_a_sentence(hasty: FlaskClient, body: dict[str, Any], told: str) -> None:
    answer = hasty.post(f"{API}/txt2img", json={"prompt": "a cat"} | body)

    assert answer.status_code == 422
    assert told in answer.get_json()["detail"]
