"""The Automatic1111 dialect's shapes: what was drawn, and what went wrong. Pure.

Source: AUTOMATIC1111 stable-diffusion-webui 1.10, modules/api/api.py and models.py.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from app.api.door import Problem, Refused
from app.api.webui import samplers
from app.api.webui.info import info_of
from app.core.spec import GenerationSpec
from app.core.tables import Job, Model

ERROR_NAMES = {"out_of_memory": "OutOfMemoryError"}
"""Clients look for this one."""


def drawn_to_json(
    order: Mapping[str, Any], job: Job, model: Model, drawn: Sequence[tuple[int, bytes]]
) -> dict[str, Any]:
    """Show what became of an order: its pictures with their positions in it, fewer where it was interrupted.

    Like there, seeds are told of all that were ordered, and `infotexts` of those that are shown.
    """
    spec = GenerationSpec.from_json(job.spec)
    choice = samplers.choice_of(spec.scheduler or "")
    parameters = dict(order) | {
        "steps": spec.steps,
        "cfg_scale": spec.guidance_scale,
        "width": spec.width,
        "height": spec.height,
        "sampler_name": choice.sampler,
        "scheduler": choice.schedule,
    }
    if not order.get("include_init_images"):
        parameters |= {name: None for name in ("init_images", "mask") if name in order}
    shown = drawn if order["send_images"] is not False else ()
    info = info_of(order, job, model, spec)
    info["infotexts"] = [info["infotexts"][position] for position, _ in drawn]
    return {
        "images": [to_base64(picture) for _, picture in shown],
        "parameters": parameters,
        "info": json.dumps(info, ensure_ascii=False),
    }


def to_base64(data: bytes) -> str:
    """Write a picture as these clients read it: without `data:`."""
    return base64.b64encode(data).decode("ascii")


def failure(job: Job) -> Refused:
    """Say that a job ended without pictures."""
    return Refused(500, job.error_code or "error", job.error or "the job failed, and no reason was given")


def say(problem: Problem) -> dict[str, Any]:
    """Say what went wrong as Automatic1111 does; routes and fields are its web framework's matter, and shaped so."""
    if problem.status == 401:
        return {"detail": "Incorrect username or password: the password is one of the server's API_TOKENS"}
    if problem.fields:
        return {"detail": [_field_to_json(*field) for field in problem.fields.items()]}
    if problem.code in {"not_found", "method_not_allowed"}:
        return {"detail": problem.code.replace("_", " ").title()}
    return {
        "error": ERROR_NAMES.get(problem.code, "HTTPException"),
        "detail": problem.message,
        "body": "",
        "errors": "",
    }


def _field_to_json(name: str, texts: Any) -> dict[str, Any]:
    text = " ".join(texts) if isinstance(texts, list) and all(isinstance(t, str) for t in texts) else str(texts)
    place = ["body"] if name in {"_schema", "body"} else ["body", name]
    return {"type": "value_error", "loc": place, "msg": text, "input": None}
