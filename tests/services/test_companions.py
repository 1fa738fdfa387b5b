"""What an order needs beside its checkpoint comes to a real machine when it is needed; server and broker are real."""

from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import pytest

from tests.machine.test_companions import a_file
from tests.provisioning.origin import Origin
from tests.support.processes import wait_until
from tests.support.system import System, borrowed

CHECKPOINT, MACHINE = "a-checkpoint", "machine-companions"

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    """Run where the LoRAs come from."""
    with Origin() as running:
        yield running


@pytest.fixture(scope="module")
def system(server: System) -> Iterator[System]:
    """Start one machine, which was told to hold one checkpoint."""
    with borrowed(server) as running:
        running.put_model(CHECKPOINT, base="sdxl")
        running.add_machine(MACHINE, CHECKPOINT)
        running.wait_for_machines(CHECKPOINT, 1)
        yield running


def put_lora(system: System, origin: Origin, model_id: str, body: bytes, **more: Any) -> None:
    served = {"bytes_per_second": more.pop("bytes_per_second")} if "bytes_per_second" in more else {}
    url = origin.serve(f"/{model_id}.safetensors", body, **served)
    entry = {"id": model_id, "name": f"{model_id}.safetensors", "kind": "lora", "base": "sdxl", "download_url": url}
    entry["hash"] = sha256(body).hexdigest()
    system.post("v1/models", entry | more)


def order(system: System, prompt: str) -> str:
    return str(system.post("v1/jobs", {"model_id": CHECKPOINT, "prompt": prompt, "steps": 1})["job_id"])


def states(system: System, model_id: str) -> list[str]:
    (machine,) = [m for m in system.get("v1/machines")["machines"] if m["machine_id"] == MACHINE]
    return [str(model["state"]) for model in machine["models"] if model["model_id"] == model_id]


def test_the_first_order_brings_a_lora_and_the_next_one_finds_it(system: System, origin: Origin) -> None:
    put_lora(system, origin, "fur", a_file({"modelspec.trigger_phrase": "fluffy"}))

    first = system.ended(order(system, "a cat <lora:fur:0.8>"))
    second = system.ended(order(system, "a dog <lora:fur:0.5>"))

    assert (first["error"], second["error"]) == (None, None)
    assert first["attempts"][0]["timings"]["provisioning"] > 0
    assert "provisioning" not in second["attempts"][0]["timings"]
    wait_until(lambda: states(system, "fur") == ["ready"], "the machine tells of the LoRA")
    model = system.get("v1/models/fur")
    assert (model["trigger_words"], model["machines_ready"]) == (["fluffy"], [MACHINE])


@pytest.mark.parametrize(
    ("model_id", "more", "told"),
    [
        ("gone", {"download_url": "/artifacts/nobody-has-this"}, "404"),
        ("wrong", {"hash": "0" * 64}, "correct the hash"),
    ],
)
def test_what_cannot_be_had_ends_the_job_with_the_diagnosis(
    system: System, origin: Origin, model_id: str, more: dict[str, Any], told: str
) -> None:
    put_lora(system, origin, model_id, a_file({"name": model_id}), **more)

    job = system.ended(order(system, f"a cat <lora:{model_id}>"))

    assert (job["status"], len(job["attempts"])) == ("error", 1)
    assert job["error"]["code"] == "companion_missing"
    assert f"{model_id} cannot be had" in job["error"]["message"]
    assert told in job["error"]["message"]


def test_a_job_is_cancelled_while_its_lora_arrives_and_the_machine_draws_on(system: System, origin: Origin) -> None:
    put_lora(system, origin, "huge", a_file(size=10_000_000), bytes_per_second=20_000)  # eight minutes
    job_id = order(system, "a cat <lora:huge>")

    def phase() -> Any:
        return (system.get(f"v1/jobs/{job_id}")["running"] or {}).get("phase")

    wait_until(lambda: phase() == "provisioning", "the LoRA is on its way")
    wait_until(lambda: states(system, "huge") == ["downloading"], "the machine checks in meanwhile, and says so")
    system.post(f"v1/jobs/{job_id}/cancel", {})
    after = system.ended(order(system, "a dog"))

    assert after["status"] == "completed"
    assert [attempt["state"] for attempt in system.get(f"v1/jobs/{job_id}")["attempts"]] == ["cancelled"]
