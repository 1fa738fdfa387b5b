"""The OpenAI dialect's shapes: orders in; pictures, events, models and problems out. Pure.

Source: OpenAI's API reference "Images" and "Image streaming", and the types of its Python package, 3.52.
"""

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from app.api.door import Problem
from app.api.openai.schemas import AUTO, QUALITIES, SAID_OTHERWISE, SEE_THROUGH, sides
from app.core.extras import USUAL, Mask
from app.core.spec import GenerationSpec
from app.core.tables import Image, Job, Model

FAITHFUL = 0.5
"""How much of a picture is drawn anew where `input_fidelity` is high; extras.STRENGTH otherwise."""

LONGEST_USER = 80
"""Characters of `user` that are kept, as the table has them."""

NOTHING_COUNTED: Mapping[str, Any] = {
    "input_tokens": 0,
    "output_tokens": 0,
    "total_tokens": 0,
    "input_tokens_details": {"text_tokens": 0, "image_tokens": 0},
}

TYPES = {429: "rate_limit_error", 403: "permission_error"}
"""OpenAI's type of an error by its status; others are the client's fault or the server's."""

CODES = {
    "missing_token": "invalid_api_key",
    "wrong_token": "invalid_api_key",
    "too_many_requests": "rate_limit_exceeded",
    "too_many_jobs": "rate_limit_exceeded",
    "invalid_request": "invalid_value",
}
"""What clients look for, by what it is called here."""

WORDED = {
    "Missing data for required field.": ("missing_required_parameter", "Missing required parameter: '{}'."),
    "Unknown field.": ("unknown_parameter", "Unknown parameter: '{}'."),
}
"""OpenAI's code and sentence for what marshmallow says of a field."""

FIRST_FAILURE = 500

Deliver = Callable[[Image], Mapping[str, str]]
"""Shows a picture's bytes as base64, or where they are."""


def to_spec(order: Mapping[str, Any], model: Model) -> GenerationSpec:
    """Read an order that the schema has accepted; its pictures are named by their SHA-256 already."""
    size = sides(order)
    return GenerationSpec(
        model_id=model.id,
        prompt=order.get("prompt") or "",
        negative_prompt=order.get("negative_prompt") or "",
        steps=order.get("steps") or _steps(order.get("quality"), model.options),
        guidance_scale=order.get("guidance_scale"),
        scheduler=order.get("scheduler"),
        seed=order.get("seed"),
        n=order.get("n") or 1,
        image_format=order.get("output_format") or "png",
        image_quality=order.get("output_compression"),
        remove_background=USUAL if order.get("background") == SEE_THROUGH else None,
        width=size.get("width"),
        height=size.get("height"),
        **(_begun(order) if "image" in order else {}),
    )


def _steps(quality: str | None, options: Mapping[str, Any]) -> int | None:
    """Return as many steps as a quality means, where the model's entry says between which the steps may be."""
    known, named = options.get("steps"), SAID_OTHERWISE.get(quality or AUTO, quality or AUTO)
    bound = {"low": "min", "high": "max", "xhigh": "max", "max": "max"}.get(named)
    if bound is None or not isinstance(known, Mapping) or options.get("fixed_steps"):
        return None
    return known.get(bound)


def _begun(order: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of an order that begins with a picture.

    With a mask nothing of what is below it remains, and nothing beside it changes, so its edge is not softened.
    """
    masked = "mask" in order
    usual = 1.0 if masked else FAITHFUL if order.get("input_fidelity") == "high" else None
    strength = order.get("strength")
    return {
        "image": order["image"],
        "mask": Mask(image=order["mask"], blur=0) if masked else None,
        "strength": usual if strength is None else strength,
        "resize_mode": "crop",
    }


def user_of(order: Mapping[str, Any]) -> str | None:
    """Return for whom a client orders, in its own words; `safety_identifier` is the newer name of `user`."""
    return order.get("safety_identifier") or order.get("user") or None


def wants_url(order: Mapping[str, Any]) -> bool:
    """Say whether a client wants addresses; older models answered with them unless asked otherwise."""
    usual = "url" if (order.get("model") or "").startswith("dall-e") else "b64_json"
    return (order.get("response_format") or usual) == "url"


def drawn_to_json(order: Mapping[str, Any], job: Job, shown: Sequence[Image], deliver: Deliver) -> dict[str, Any]:
    """Show the pictures of an order; none while it goes on."""
    quality, user = quality_of(order), user_of(order)
    return {
        "created": seconds(job.ended_at or job.created_at),
        "background": background_of(order),
        **({"quality": quality} if quality != AUTO else {}),
        **({"size": size_of(shown[0])} if shown else {}),
        **({"safety_identifier": user} if user else {}),
        "output_format": job.spec["image_format"],
        "data": [{**deliver(image), "seed": image.seed} for image in shown],
        "usage": NOTHING_COUNTED,
        "job_id": job.id,
    }


def in_base64(data: bytes) -> Mapping[str, str]:
    """Show a picture's bytes."""
    return {"b64_json": b64encode(data).decode("ascii")}


def event_to_json(kind: str, order: Mapping[str, Any], data: bytes, size: str, moment: datetime) -> dict[str, Any]:
    """Show what all events of a stream have in common; `kind` is such as image_generation.completed."""
    return {
        "type": kind,
        **in_base64(data),
        "created_at": seconds(moment),
        "size": size,
        "quality": quality_of(order),
        "background": background_of(order),
        "output_format": order.get("output_format") or "png",
    }


def quality_of(order: Mapping[str, Any]) -> str:
    """Return the quality that was asked for, in today's words."""
    asked = order.get("quality") or AUTO
    named = SAID_OTHERWISE.get(asked, asked)
    return named if named in QUALITIES else AUTO


def background_of(order: Mapping[str, Any]) -> str:
    """Say whether one can see through the pictures of an order."""
    return SEE_THROUGH if order.get("background") == SEE_THROUGH else "opaque"


def size_of(image: Image) -> str:
    """Write a picture's size."""
    return f"{image.width}x{image.height}"


def seconds(moment: datetime) -> int:
    """Write a moment as OpenAI does."""
    return int(moment.timestamp())


def model_to_json(model: Model) -> dict[str, Any]:
    """Show a model."""
    return {"id": model.id, "object": "model", "created": seconds(model.created_at), "owned_by": "imagefleet"}


def say(problem: Problem) -> dict[str, Any]:
    """Say what went wrong: {"error": {"message", "type", "param", "code"}}."""
    usual = "server_error" if problem.status >= FIRST_FAILURE else "invalid_request_error"
    param, code, message = _of_field(problem)
    job_id = problem.facts.get("job_id")
    told = {"message": message, "type": TYPES.get(problem.status, usual), "param": param, "code": code}
    return {"error": told | ({"job_id": job_id} if job_id else {})}


def _of_field(problem: Problem) -> tuple[str | None, str, str]:
    """Name the field that is wrong, the first of several, in OpenAI's words where it has some."""
    code = CODES.get(problem.code, problem.code)
    names = [name for name in problem.fields if name not in {"_schema", "body"}]
    if not names:
        return ("model" if code == "model_not_found" else None), code, problem.message
    texts = problem.fields[names[0]]
    code, sentence = WORDED.get(texts[0] if isinstance(texts, list) else str(texts), (code, None))
    message = sentence.format(names[0]) if sentence and len(names) == 1 else problem.message
    return names[0], code, message
