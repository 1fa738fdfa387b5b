"""Routes of the OpenAI dialect."""

import math
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from flask import Response, after_this_request, jsonify, request
from flask_smorest import Blueprint
from werkzeug.exceptions import ServiceUnavailable
from werkzeug.wrappers import Response as BaseResponse

from app.api import ordering, serving
from app.api.door import Auth, Dialect, Refused, absolute, fleet, settings
from app.api.openai import forms, links, schemas, translate
from app.api.openai.endings import refusal_of
from app.api.openai.placing import NAME, drawable, place
from app.api.openai.streams import Story
from app.api.streaming import streamed
from app.api.waiting import PREFER_HEADER, is_gone, preferred_seconds, tell_applied, waiting_room
from app.core import images, jobs, machines
from app.core.lifecycle import ENDED
from app.core.tables import Image

FORM = "multipart/form-data"

blueprint = Blueprint(NAME, __name__, url_prefix="/openai/v1", description="OpenAI's images API.")
drawn = Blueprint(f"{NAME}-drawn", __name__, url_prefix=links.FOLDER, description="Pictures by sealed addresses.")

SHARED: dict[str, Any] = {"error": schemas.OpenAiErrorSchema, "statuses": {422: 400}}
dialect = Dialect(
    NAME,
    ("/openai",),
    Auth.CLIENT,
    translate.say,
    (blueprint,),
    title="OpenAI images",
    about="What clients of OpenAI's images API expect, with `base_url` set to `/openai/v1` of this server.",
    **SHARED,
)
dialect_drawn = Dialect(
    f"{NAME}-drawn",
    (links.FOLDER,),
    Auth.OPEN,
    translate.say,
    (drawn,),
    title="OpenAI images: addresses",
    about="Pictures under the addresses that `response_format: url` gives, which hold for an hour.",
    **SHARED,
)


@blueprint.before_request
def take_only_forms() -> None:
    """Refuse other bodies where a form is wanted: they would be refused for the wrong reason."""
    wants_form = request.method == "POST" and not str(request.endpoint).endswith("generate")
    if wants_form and request.mimetype != FORM:
        raise Refused(415, "unsupported_media_type", f"send the body as `Content-Type: {FORM}`")


PREFER = {
    **PREFER_HEADER,
    "description": "`wait=N` or `respond-async`: answer 202 where the pictures are not drawn by then",
}

EVENTS = {"text/event-stream": {"schema": {"type": "string"}}}


def _orders(answer: Any) -> Any:
    """Describe what is the same for all routes that take orders."""
    kinds = blueprint.response(200, schemas.OpenAiDrawnSchema, description="the pictures, or a stream of events")
    later = blueprint.alt_response(
        202, schema=schemas.OpenAiDrawnSchema, description="only with `Prefer`: it is not drawn yet, ask at `Location`"
    )
    more = blueprint.doc(parameters=[ordering.KEY_HEADER, PREFER], responses={200: {"content": EVENTS}})
    described = more(later(kinds(answer)))
    for status in (404, 409, 503, 504):
        described = blueprint.alt_response(status, schema=schemas.OpenAiErrorSchema)(described)
    return described


@blueprint.post("/images/generations")
@blueprint.arguments(schemas.OpenAiGenerationSchema, error_status_code=400)
@_orders
def generate(order: Mapping[str, Any]) -> BaseResponse:
    """Draw pictures from words, and answer with them; with `stream` as events, previews first."""
    return _answer("image_generation", order)


@blueprint.post("/images/edits")
@blueprint.doc(requestBody={"required": True, "content": {FORM: {"schema": schemas.OpenAiEditSchema}}})
@_orders
def edit() -> BaseResponse:
    """Draw pictures from a picture, or something else where its mask is transparent, and answer with them."""
    order = forms.read(schemas.OpenAiEditSchema())
    return _answer("image_edit", forms.with_pictures_kept(order))


@blueprint.post("/images/variations")
@blueprint.doc(requestBody={"required": True, "content": {FORM: {"schema": schemas.OpenAiVariationSchema}}})
@_orders
def vary() -> BaseResponse:
    """Draw pictures like a picture, without words, and answer with them; OpenAI itself has retired this."""
    order = forms.read(schemas.OpenAiVariationSchema())
    return _answer("image_variation", forms.with_pictures_kept(order))


def _answer(kind: str, order: Mapping[str, Any]) -> BaseResponse:
    asked = preferred_seconds(math.inf)
    seconds, knows_of_waiting = min(asked, settings().openai_wait_seconds), asked < math.inf
    if knows_of_waiting:
        tell_applied(seconds)
    if order.get("stream"):
        return streamed(lambda go_on: Story(fleet(), kind, order, place(order), seconds, go_on).told())
    if not seconds:
        return _told(order, place(order).job_id, may_come_later=True)
    with waiting_room().seat():
        placed = place(order)
        try:
            state = waiting_room().wait(fleet(), placed.job_id, seconds, lambda: not is_gone(request.environ))
        except ServiceUnavailable:
            placed.leave()
            raise
    if is_gone(request.environ) or (state not in ENDED and not knows_of_waiting):
        placed.leave()
    return _told(order, placed.job_id, may_come_later=knows_of_waiting)


def _told(order: Mapping[str, Any], job_id: UUID, *, may_come_later: bool) -> Response:
    """Answer with what a job has become by now; only who has said that he does not wait gets less than its pictures."""
    with fleet().reading() as session:
        job = jobs.get(session, job_id)
    refused = refusal_of(job)
    is_later = job.state not in ENDED and may_come_later
    if refused is not None and not is_later:
        if job.state in ENDED:
            _let_not_try_again()
        raise refused
    deliver = _as_url if translate.wants_url(order) else _as_base64
    body = translate.drawn_to_json(order, job, jobs.shown_images(job), deliver)
    response = jsonify(schemas.OpenAiDrawnSchema().dump(body))
    if is_later:
        response.status_code = 202
        response.headers["Location"] = absolute(f"/v1/jobs/{job_id}")
    return response


def _as_url(image: Image) -> Mapping[str, str]:
    return {"url": absolute(links.path_to(fleet(), image))}


def _as_base64(image: Image) -> Mapping[str, str]:
    return translate.in_base64(images.read(fleet(), image))


def _let_not_try_again() -> None:
    """Tell OpenAI's clients, which repeat 409 and 5xx by themselves, that the fleet has tried already."""

    @after_this_request
    def say_so(response: Response) -> Response:
        response.headers["X-Should-Retry"] = "false"
        return response


@blueprint.get("/models")
@blueprint.response(200, schemas.OpenAiModelsSchema)
def list_models() -> dict[str, Any]:
    """List the models that pictures can be drawn with; first those that a machine is ready for."""
    with fleet().reading() as session:
        found = machines.drawable(session, fleet().limits, fleet().clock())
        shown = [translate.model_to_json(model) for model, _ in sorted(found, key=lambda pair: not pair[1])]
    return {"object": "list", "data": shown}


@blueprint.get("/models/<model_id>")
@blueprint.response(200, schemas.OpenAiModelSchema)
@blueprint.alt_response(404, schema=schemas.OpenAiErrorSchema)
def show_model(model_id: str) -> dict[str, Any]:
    """Show one of them."""
    with fleet().reading() as session:
        return translate.model_to_json(drawable(session, model_id))


@drawn.get("/<name>")
@drawn.doc(**serving.PICTURE)
@drawn.alt_response(404, schema=schemas.OpenAiErrorSchema)
def show_image(name: str) -> BaseResponse:
    """Return a picture, to everybody who has its address."""
    return serving.picture(links.image_of(fleet(), name))
