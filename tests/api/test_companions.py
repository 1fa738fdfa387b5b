"""What an order brings along from the catalogue: by field, by the prompt's words, and what is refused at once."""

from typing import Any

import pytest

from app.core import bases
from app.core.fleet import Fleet
from app.core.lifecycle import HoldingState
from app.core.machines import HoldingReport
from tests.builders import BOOT, MACHINE, MODEL, a_job, a_machine, a_model, claim, the_model
from tests.support.web import Client


@pytest.fixture(autouse=True)
def catalogue(fleet: Fleet) -> None:
    """Have a checkpoint of SDXL, and what goes along with it or does not."""
    a_model(fleet, MODEL, base="sdxl")
    a_model(fleet, "add-detail-xl", kind="lora", base="SDXL 1.0", save_path="loras/Detail_Tweaker.safetensors")
    a_model(fleet, "fur", kind="lora", base="sdxl", options={"alias": ["Fluffy"]})
    a_model(fleet, "old-fur", kind="lora", base="SD 1.5")
    a_model(fleet, "bad-hands", kind="embedding", base="sdxl", save_path="embeddings/negativeHands.safetensors")
    a_model(fleet, "old-hands", kind="embedding", base="sd15")
    a_model(fleet, "xl-vae", kind="vae", base="sdxl")
    a_model(fleet, "old-vae", kind="vae", base="sd15")


def order(client: Client, prompt: str = "a cat", **more: Any) -> Any:
    return client.post("/v1/jobs", json={"model_id": MODEL, "prompt": prompt} | more)


def parameters(client: Client, prompt: str = "a cat", **more: Any) -> Any:
    answer = order(client, prompt, **more)
    assert answer.status_code == 202, answer.text
    return answer.json["parameters"]


def refusal(client: Client, prompt: str = "a cat", **more: Any) -> str:
    answer = order(client, prompt, **more)
    assert answer.status_code == 422, answer.text
    return str(answer.json["error"]["message"])


def a_lora(model_id: str, weight: float = 1.0, text_weight: float | None = None) -> dict[str, Any]:
    return {"model_id": model_id, "weight": weight, "text_weight": text_weight}


def test_networks_are_ordered_by_field_and_shown(client: Client) -> None:
    given = ["add-detail-xl", {"model_id": "fur", "weight": -0.5, "text_weight": 0.2}]

    found = parameters(client, loras=given, embeddings=["bad-hands"], vae="xl-vae")

    assert found["loras"] == [a_lora("add-detail-xl"), a_lora("fur", -0.5, 0.2)]
    assert (found["embeddings"], found["vae_id"]) == (["bad-hands"], "xl-vae")


@pytest.mark.parametrize(
    ("tag", "model_id", "weights"),
    [
        ("<lora:add-detail-xl:0.8>", "add-detail-xl", (0.8, 0.8)),
        ("<lora:Add-Detail-XL>", "add-detail-xl", (1.0, 1.0)),
        ("<lora:detail_tweaker:-1>", "add-detail-xl", (-1.0, -1.0)),
        ("<lora:Detail_Tweaker.safetensors:0.5>", "add-detail-xl", (0.5, 0.5)),
        ("<lyco:FLUFFY:0.5:0.8>", "fur", (0.8, 0.5)),
        ("<lora:fur:te=0:unet=0.3>", "fur", (0.3, 0.0)),
        ("<lora:fur:0.3> and <lora:fur:0.4>", "fur", (0.7, 0.7)),
    ],
)
def test_a_prompt_names_a_lora(client: Client, tag: str, model_id: str, weights: tuple[float, float]) -> None:
    (found,) = parameters(client, f"a cat {tag}")["loras"]

    assert found["model_id"] == model_id
    assert (found["weight"], found["text_weight"]) == pytest.approx(weights)


def test_the_prompt_is_kept_as_it_was_written(client: Client) -> None:
    assert parameters(client, "a cat <lora:fur:0.3>")["prompt"] == "a cat <lora:fur:0.3>"


def test_what_the_field_says_comes_before_what_the_prompt_says(client: Client) -> None:
    found = parameters(client, "a cat <lora:fur:0.3><lora:add-detail-xl>", loras=[{"model_id": "fur", "weight": 0.9}])

    assert [(each["model_id"], each["weight"]) for each in found["loras"]] == [("fur", 0.9), ("add-detail-xl", 1.0)]


def test_each_prompt_of_a_list_brings_its_own(client: Client) -> None:
    body = {"model_id": MODEL, "prompts": ["a cat <lora:fur>", "a dog", "negativehands"]}

    jobs = client.post("/v1/jobs", json=body).json["jobs"]

    assert [len(job["parameters"].get("loras", [])) for job in jobs] == [1, 0, 0]
    assert [job["parameters"].get("embeddings", []) for job in jobs] == [[], [], ["bad-hands"]]


def test_an_ended_job_is_ordered_again_with_the_same_networks(client: Client) -> None:
    first = order(client, "a cat, bad-hands <lora:fur:0.3>").json
    client.post(f"/v1/jobs/{first['job_id']}/cancel")

    again = client.post(f"/v1/jobs/{first['job_id']}/retry").json

    assert again["parameters"] == first["parameters"]


@pytest.mark.parametrize(
    ("prompt", "negative", "found"),
    [
        ("a cat, bad-hands", "", ["bad-hands"]),
        ("a cat", "(NegativeHands:1.2), blurry", ["bad-hands"]),
        ("a cat with bad-handsome people", "", []),
        ("bad hands", "", []),
        ("old-hands", "", []),
    ],
)
def test_an_embedding_is_called_by_a_word_of_the_prompt(
    client: Client, prompt: str, negative: str, found: list[str]
) -> None:
    assert parameters(client, prompt, negative_prompt=negative).get("embeddings", []) == found


@pytest.mark.parametrize(
    ("prompt", "more", "told"),
    [
        ("<lora:furr:1>", {}, "<lora:furr>: no LoRA of the catalogue is called so; is it fur"),
        ("<lora:bad-hands>", {}, "no LoRA of the catalogue is called so"),
        ("<hypernet:fur:1>", {}, "hypernetworks cannot be drawn with"),
        ("<lora:fur:99>", {}, "weight of fur must be between -10 and 10"),
        ("<lora:old-fur>", {}, f"bases differ: the lora 'old-fur' is made for SD 1.5, and '{MODEL}' is sdxl"),
        ("a cat", {"loras": ["add-detail"]}, "lora 'add-detail' is not in the catalogue; is it add-detail-xl?"),
        ("a cat", {"loras": ["xl-vae"]}, "'xl-vae' is a vae, and not a lora"),
        ("a cat", {"loras": ["old-fur"]}, "bases differ"),
        ("a cat", {"loras": ["fur", "fur"]}, "fur is named twice; add its weights up"),
        ("a cat", {"embeddings": ["fur"]}, "'fur' is a lora, and not a embedding"),
        ("a cat", {"embeddings": ["old-hands"]}, "bases differ"),
        ("a cat", {"vae": "old-vae"}, "bases differ: the vae 'old-vae' is made for sd15"),
        ("a cat", {"vae": MODEL}, "is a checkpoint, and not a vae"),
        ("a cat", {"remove_background": "fur"}, "'fur' is a lora, and not a onnx"),
        ("a cat", {"loras": ["a", "b"], "vae": "c"}, "lora 'b' is not in the catalogue; vae 'c' is not"),
    ],
)
def test_what_can_never_be_drawn_is_refused_at_once(
    client: Client, prompt: str, more: dict[str, Any], told: str
) -> None:
    assert told in refusal(client, prompt, **more)


@pytest.mark.parametrize("loras", ["fur", [1], [{"weight": 1}], [{"model_id": "fur", "weight": "much"}], [""]])
def test_what_is_no_list_of_loras_is_told_by_its_field(client: Client, loras: Any) -> None:
    answer = order(client, loras=loras)

    assert answer.status_code == 422
    assert "loras" in answer.json["error"]["fields"]


def test_a_word_that_means_several_loras_is_refused(fleet: Fleet, client: Client) -> None:
    a_model(fleet, "fluffy-2", kind="lora", options={"alias": "fluffy"})

    assert "may mean several LoRAs of the catalogue: fluffy-2, fur; name one by its id" in refusal(
        client, "<lora:fluffy>"
    )


def test_a_base_that_nobody_knows_refuses_nothing(fleet: Fleet, client: Client) -> None:
    a_model(fleet, "odd", kind="lora", base="hunyuan 9")
    a_model(fleet, "silent", kind="lora")

    assert len(parameters(client, loras=["odd", "silent"])["loras"]) == 2


@pytest.mark.parametrize(
    ("first", "second", "kind", "fits"),
    [
        ("SDXL 1.0", "Pony", "lora", True),
        ("sdxl", "sdxl-turbo", "lora", True),
        ("Flux.1 D", "flux-schnell", "lora", True),
        ("SD 1.5", "SDXL 1.0", "lora", False),
        ("SD 1.5", "sd2", "lora", False),
        ("SD 1.5", "sd2", "vae", True),
        ("sd", "sd2", "lora", True),
        ("SD 3.5 Large", "flux", "lora", False),
        (None, "flux", "lora", True),
    ],
)
def test_which_bases_fit(first: str | None, second: str | None, kind: str, fits: bool) -> None:
    assert bases.fit(first, second, kind) is bases.fit(second, first, kind) is fits


def test_a_claim_tells_what_the_companions_are(fleet: Fleet, client: Client) -> None:
    job = a_job(fleet, prompt="a cat <lora:fur>")
    a_machine(fleet, ready_for=[MODEL])
    body = {"machine_id": MACHINE, "boot_id": BOOT}

    told = client.post(f"/machines/v1/jobs/{job.id}/claim", json=body).json

    assert told["companions"]["fur"].items() >= {"kind": "lora", "base": "sdxl"}.items()


def test_trigger_words_that_machines_read_are_shown_with_the_model(fleet: Fleet, client: Client) -> None:
    words = HoldingReport(model_id="fur", state=HoldingState.READY, trigger_words=["fluffy", "sks cat"])
    before = client.get("/v1/models/fur").json["trigger_words"]

    a_machine(fleet, holdings=[words])
    a_machine(fleet, holdings=[words])
    a_machine(fleet, holdings=[])

    assert before == []
    assert client.get("/v1/models/fur").json["trigger_words"] == ["fluffy", "sks cat"]
    a_model(fleet, "fur", kind="lora", base="sdxl")
    assert the_model(fleet, "fur").trigger_words == ["fluffy", "sks cat"]


def test_a_check_in_over_http_brings_trigger_words(client: Client) -> None:
    holding = {"model_id": "fur", "state": "ready", "trigger_words": ["fluffy"]}
    body = {"machine_id": MACHINE, "boot_id": BOOT, "holdings": [holding]}

    client.post("/machines/v1/check-in", json=body)

    model = client.get("/v1/models/fur").json
    assert (model["trigger_words"], model["status"], model["machines_ready"]) == (["fluffy"], "Ready", [MACHINE])


def test_a_job_without_companions_claims_none(fleet: Fleet) -> None:
    job = a_job(fleet)
    a_machine(fleet, ready_for=[MODEL])

    assert claim(fleet, job.id) is not None
