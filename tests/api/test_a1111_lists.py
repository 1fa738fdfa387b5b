"""Golden bodies of every GET of the Automatic1111 dialect: which keys there are, and of which types."""

from collections.abc import Mapping
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import Client

from app.api.a1111.root import AtTheRoot
from app.core.fleet import Fleet
from tests.api.test_a1111 import the_body
from tests.api.test_doors import ROUTES
from tests.builders import a_machine, a_model

NOTHING = type(None)
MAYBE_TEXT = (str, NOTHING)
SHA = "0123456789" + "ab" * 27
API = "/sdapi/v1"

MEMORY = {"free": int, "used": int, "total": int}
USED = {"current": int, "peak": int}
MODULES = {"module_list": [str], "model_list": [str], "default_option": str, "default_model": str}

GOLDEN: Mapping[str, Any] = {
    f"{API}/sd-models": [
        {"title": str, "model_name": str, "hash": MAYBE_TEXT, "sha256": MAYBE_TEXT, "filename": str, "config": NOTHING}
    ],
    f"{API}/sd-vae": [{"model_name": str, "filename": str}],
    f"{API}/loras": [{"name": str, "alias": str, "path": str, "metadata": dict}],
    f"{API}/embeddings": {
        "loaded": {
            "bad-hands": {
                "step": (int, NOTHING),
                "sd_checkpoint": MAYBE_TEXT,
                "sd_checkpoint_name": MAYBE_TEXT,
                "shape": int,
                "vectors": int,
            }
        },
        "skipped": {},
    },
    f"{API}/hypernetworks": [],
    f"{API}/samplers": [{"name": str, "aliases": list, "options": {"scheduler": str}}],
    f"{API}/schedulers": [
        {"name": str, "label": str, "aliases": NOTHING, "default_rho": (int, float), "need_inner_model": bool}
    ],
    f"{API}/upscalers": [
        {"name": str, "model_name": NOTHING, "model_path": NOTHING, "model_url": NOTHING, "scale": (int, float)}
    ],
    f"{API}/latent-upscale-modes": [{"name": str}],
    f"{API}/face-restorers": [],
    f"{API}/realesrgan-models": [],
    f"{API}/prompt-styles": [],
    f"{API}/extensions": [],
    f"{API}/scripts": {"txt2img": [str], "img2img": [str]},
    f"{API}/script-info": [{"name": str, "is_alwayson": bool, "is_img2img": bool, "args": []}],
    f"{API}/cmd-flags": {"api": bool, "nowebui": bool},
    f"{API}/memory": {
        "ram": MEMORY,
        "cuda": {
            "system": MEMORY,
            "active": USED,
            "allocated": USED,
            "reserved": USED,
            "inactive": USED,
            "events": {"retries": int, "oom": int},
        },
    },
    f"{API}/progress": {
        "progress": float,
        "eta_relative": float,
        "state": {
            "skipped": bool,
            "interrupted": bool,
            "stopping_generation": bool,
            "job": str,
            "job_count": int,
            "job_timestamp": str,
            "job_no": int,
            "sampling_step": int,
            "sampling_steps": int,
        },
        "current_image": NOTHING,
        "textinfo": NOTHING,
    },
    f"{API}/options": {
        "sd_model_checkpoint": str,
        "sd_checkpoint_hash": str,
        "sd_vae": str,
        "CLIP_stop_at_last_layers": int,
        "eta_noise_seed_delta": int,
        "samples_format": str,
        "samples_save": bool,
        "grid_save": bool,
        "return_grid": bool,
        "send_seed": bool,
        "hide_samplers": [],
        "live_previews_enable": bool,
        "show_progress_every_n_steps": int,
        "jpeg_quality": int,
        "face_restoration": bool,
        "face_restoration_model": NOTHING,
        "inpainting_mask_weight": float,
        "upscaler_for_img2img": NOTHING,
        "img2img_fix_steps": bool,
        "outdir_txt2img_samples": str,
    },
    "/controlnet/version": {"version": int},
    "/controlnet/model_list": {"model_list": [str]},
    "/controlnet/module_list": {
        "module_list": [str],
        "module_detail": {"canny": {"model_free": bool, "sliders": []}, ...: {"model_free": bool, "sliders": []}},
    },
    "/controlnet/control_types": {"control_types": {"All": MODULES, ...: MODULES}},
    "/controlnet/settings": {"control_net_unit_count": int},
    "/internal/ping": {},
    "/": {"name": str, "api": str},
}
"""A type, or several; a list of one shape for all of its members, which there must be; `...` for all other keys."""


BODIES: tuple[dict[str, Any], ...] = ({"json": {}}, {"json": ""}, {})
"""A known client posts a text where there is nothing to say, another one nothing at all."""


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Nothing here depends on the kind of database."""
    return sqlite_url


@pytest.fixture(autouse=True)
def catalogue(fleet: Fleet) -> None:
    """Have one of everything, on a machine with a GPU."""
    a_model(fleet, "shapes", base="sd15", hash=SHA)
    a_model(fleet, "no-hash", base="sd15")
    a_model(fleet, "fur", kind="lora", base="sd15")
    a_model(fleet, "kl-f8", kind="vae", base="sd15")
    a_model(fleet, "hands", kind="embedding", base="sd15", save_path="embeddings/bad-hands.safetensors")
    a_model(fleet, "sharp", kind="upscaler")
    a_model(fleet, "edges", kind="controlnet", base="sd15", tags=["canny"])
    device = {"type": "cuda", "name": "a GPU", "memory_total": 8, "memory_free": 3}
    a_machine(fleet, ready_for=["shapes", "no-hash"], device=device)


def problems(found: Any, shape: Any, where: str = "") -> list[str]:
    """Say where a body differs from its shape."""
    if isinstance(shape, dict):
        if not isinstance(found, dict):
            return [f"{where} is no object"]
        missing = [f"{where}.{name} is missing" for name in shape if name is not ... and name not in found]
        more = [f"{where}.{name} is new" for name in found if name not in shape and ... not in shape]
        known = {name: shape.get(name, shape.get(...)) for name in found if name in shape or ... in shape}
        return (
            missing + more + [p for name, each in known.items() for p in problems(found[name], each, f"{where}.{name}")]
        )
    if isinstance(shape, list):
        if not isinstance(found, list) or bool(found) != bool(shape):
            return [f"{where} is {found!r}"]
        return [p for number, each in enumerate(found) for p in problems(each, shape[0], f"{where}.{number}")]
    is_flag = isinstance(found, bool) and bool not in (shape if isinstance(shape, tuple) else (shape,))
    return [] if isinstance(found, shape) and not is_flag else [f"{where} is {found!r}"]


@pytest.mark.parametrize("path", GOLDEN)
def test_a_body_has_the_keys_that_clients_read_and_no_others(path: str, client: FlaskClient) -> None:
    below, at_the_root = client.get(f"/a1111{path}"), Client(AtTheRoot(client.application)).get(path)

    assert (below.status_code, at_the_root.status_code) == (200, 200)
    assert problems(the_body(below), GOLDEN[path]) == []
    assert the_body(at_the_root) == the_body(below)


def test_memory_is_that_of_every_computer_once_and_of_every_gpu(client: FlaskClient, fleet: Fleet) -> None:
    computer = {"name": "tower", "memory_total": 64, "memory_free": 40}
    for name in ("tower-0", "tower-1"):
        a_machine(fleet, name, device={"type": "cuda", "memory_total": 8, "memory_free": 2, "computer": computer})
    a_machine(fleet, "small", device={"type": "cpu", "memory_total": 16, "memory_free": 4})

    found = the_body(client.get(f"/a1111{API}/memory"))

    assert found["ram"] == {"total": 80, "free": 44, "used": 36}
    assert found["cuda"]["system"] == {"total": 24, "free": 7, "used": 17}


def test_every_get_of_the_dialect_has_a_golden_body() -> None:
    gets = {rule.removeprefix("GET /a1111") for rule, owner in ROUTES.items() if owner == "a1111" and "GET " in rule}

    assert gets == set(GOLDEN)


@pytest.mark.parametrize(
    "rule", [f"{API}/{n}" for n in ("refresh-checkpoints", "refresh-vae", "refresh-loras", "skip")]
)
def test_what_has_nothing_to_say_says_so_in_json(rule: str, client: FlaskClient) -> None:
    for given in BODIES:
        answer = client.post(f"/a1111{rule}", **given)

        assert (answer.status_code, answer.get_json()) == (200, None)


@pytest.mark.parametrize("rule", ["unload-checkpoint", "reload-checkpoint", "interrupt"])
def test_what_is_done_without_words_answers_an_object(rule: str, client: FlaskClient) -> None:
    for given in BODIES:
        answer = client.post(f"/a1111{API}/{rule}", **given)

        assert (answer.status_code, the_body(answer)) == (200, {})
