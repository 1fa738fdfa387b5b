"""Routes of the Automatic1111 dialect, below /a1111 and at the root of the second port."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from flask import Response, jsonify, request
from flask_smorest import Blueprint

from app.api import given, ordering
from app.api.a1111 import checkpoints, networks, refusals, samplers, schemas, titles, translate
from app.api.a1111.infotext import parse, read_picture
from app.api.a1111.root import PREFIX
from app.api.door import Auth, Dialect, Refused, caller, fleet, settings
from app.api.hooks import hook_of, without_hook
from app.api.waiting import waiting_room
from app.core import callers, images, jobs, machines, models, service
from app.core.fleet import Transaction
from app.core.jobs import Terms
from app.core.lifecycle import ENDED, JobState
from app.core.tables import Job
from app.core.upscaling import LATENT, PIXELS
from app.core.webhooks import HookRequest

NAME = "a1111"

blueprint = Blueprint(
    NAME, __name__, url_prefix=f"{PREFIX}/sdapi/v1", description="Automatic1111's API, answered by the fleet."
)
root = Blueprint(f"{NAME}-root", __name__, url_prefix=PREFIX, description="What Automatic1111 has beside its API.")
dialect = Dialect(NAME, (PREFIX,), Auth.CLIENT_OR_BASIC, translate.say, (blueprint, root))


@blueprint.before_request
def take_only_json() -> None:
    """Refuse other bodies: read as an empty order they would be drawn."""
    if request.content_length and not request.is_json:
        raise Refused(415, "unsupported_media_type", "send the body as JSON with `Content-Type: application/json`")


@root.get("/")
@root.response(200)
def greet() -> dict[str, str]:
    """Say who is here; some clients look before they ask."""
    return {"name": "imagefleet", "api": "/sdapi/v1"}


@blueprint.post("/txt2img")
@blueprint.arguments(schemas.Txt2ImgSchema)
@blueprint.response(200, schemas.A1111DrawnSchema)
@blueprint.doc(parameters=[ordering.KEY_HEADER])
@blueprint.alt_response(404, schema=schemas.A1111ErrorSchema)
@blueprint.alt_response(409, schema=schemas.A1111ErrorSchema)
@blueprint.alt_response(429, schema=schemas.A1111ErrorSchema)
@blueprint.alt_response(500, schema=schemas.A1111ErrorSchema)
@blueprint.alt_response(503, schema=schemas.A1111ErrorSchema)
@blueprint.alt_response(504, schema=schemas.A1111ErrorSchema)
def txt2img(order: Mapping[str, Any]) -> dict[str, Any]:
    """Draw, and answer with the pictures; a client that goes away leaves its job running."""
    return _draw(order)


@blueprint.post("/img2img")
@blueprint.arguments(schemas.Img2ImgSchema)
@blueprint.response(200, schemas.A1111DrawnSchema)
@blueprint.doc(parameters=[ordering.KEY_HEADER])
@blueprint.alt_response(404, schema=schemas.A1111ErrorSchema)
@blueprint.alt_response(409, schema=schemas.A1111ErrorSchema)
@blueprint.alt_response(413, schema=schemas.A1111ErrorSchema)
@blueprint.alt_response(429, schema=schemas.A1111ErrorSchema)
@blueprint.alt_response(500, schema=schemas.A1111ErrorSchema)
@blueprint.alt_response(503, schema=schemas.A1111ErrorSchema)
@blueprint.alt_response(504, schema=schemas.A1111ErrorSchema)
def img2img(order: Mapping[str, Any]) -> dict[str, Any]:
    """Draw from a picture, or over what its mask shows, and answer with the pictures."""
    if not order["init_images"]:
        raise Refused(404, "init_image_not_found", "Init image not found")
    return _draw(order)


def _draw(order: Mapping[str, Any]) -> dict[str, Any]:
    refusals.refuse_what_cannot_be(order)
    hook, order = hook_of(order), without_hook(order)
    with waiting_room().seat():
        job_id = _submit(_with_pictures_kept(order), hook)
        state = waiting_room().wait(fleet(), job_id, settings().a1111_wait_seconds)
    if state not in ENDED:
        raise _too_slow(job_id, state)
    return _drawn(order, job_id)


def _with_pictures_kept(order: Mapping[str, Any]) -> Mapping[str, Any]:
    """Keep the pictures that an order brings along, and name them in it instead; raises Refused."""
    if not order.get("init_images"):
        return order
    images = [given.keep_text(each, "init_images") for each in order["init_images"]]
    return {**order, "init_images": images, "mask": order["mask"] and given.keep_text(order["mask"], "mask")}


def _submit(order: Mapping[str, Any], hook: HookRequest | None) -> UUID:
    def draw(tx: Transaction, terms: Terms) -> list[Job]:
        options = callers.options_of(tx.session, caller())
        model = checkpoints.to_draw_with(tx.session, order, options, fleet())
        upscalers = [each.id for each in models.listing(tx.session, kind="upscaler")]
        spec = translate.to_spec(order, model, translate.options_of(options), upscalers)
        spec = networks.with_networks(tx.session, spec, order, options)
        return [jobs.submit(tx, spec, terms)]

    with ordering.placed(Terms(dialect=NAME, caller=caller(), hook=hook), draw) as (job,):
        return job.id


def _too_slow(job_id: UUID, state: JobState) -> Refused:
    return Refused(
        504,
        "too_slow",
        f"job {job_id} is {state} after {settings().a1111_wait_seconds} s (A1111_WAIT_SECONDS); it goes on, and "
        f"GET /v1/jobs/{job_id} on the main port shows it",
    )


def _drawn(order: Mapping[str, Any], job_id: UUID) -> dict[str, Any]:
    with fleet().reading() as session:
        job = jobs.get(session, job_id)
        model = jobs.model_of(session, job)
    if job.state == JobState.ERROR:
        raise translate.failure(job)
    pictures = [images.read(fleet(), image) for image in jobs.shown_images(job)]
    return translate.drawn_to_json(order, job, model, pictures)


@blueprint.get("/progress")
@blueprint.response(200, schemas.A1111ProgressSchema)
def progress() -> dict[str, Any]:
    """Show how far the caller's job is; those of others are not its business."""
    with fleet().reading() as session:
        job = next(iter(callers.unended(session, caller(), NAME)), None)
        why = None
        if job and job.state == JobState.QUEUED:
            ahead = jobs.ahead_of(session, job)
            why = service.why_waiting(session, job, ahead, fleet().limits, fleet().clock())
    now = fleet().live.progress(job.id) if job else None
    return translate.progress_to_json(job, now, why, fleet().clock())


@blueprint.post("/interrupt")
@blueprint.response(200)
def interrupt() -> dict[str, Any]:
    """Cancel what is being drawn for the caller; its txt2img answers at once, without pictures."""
    with fleet().transaction() as tx:
        callers.interrupt(tx, caller(), NAME, fleet())
    return {}


@blueprint.post("/skip")
@blueprint.response(200)
def skip() -> Response:
    """Do nothing: a job's pictures are drawn as one."""
    return _null()


@blueprint.get("/options")
@blueprint.response(200)
def show_options() -> dict[str, Any]:
    """Show the caller's settings, among them its model."""
    with fleet().reading() as session:
        kept = callers.options_of(session, caller())
        return translate.options_to_json(kept, checkpoints.current(session, kept, fleet()))


@blueprint.post("/options")
@blueprint.response(200)
@blueprint.alt_response(404, schema=schemas.A1111ErrorSchema)
def set_options() -> Response:
    """Keep settings for this caller, and for nobody else; what would change pictures and cannot be had is refused."""
    given = _json_object()
    refusals.refuse_options(given)
    kept = translate.to_keep(given)
    with fleet().transaction() as tx:
        if name := given.get("sd_model_checkpoint"):
            kept["sd_model_checkpoint"] = checkpoints.named(tx.session, str(name)).id
        networks.vae_named(tx.session, given.get("sd_vae"))
        callers.remember(tx, caller(), kept)
    return _null()


def _json_object() -> dict[str, Any]:
    given = request.get_json(silent=True)
    if not isinstance(given, dict):
        raise Refused(422, "invalid_request", "the body is no JSON object", body=["Input should be a valid dictionary"])
    return given


@blueprint.get("/sd-models")
@blueprint.response(200)
def list_models() -> list[dict[str, Any]]:
    """List the models that live machines have, ready ones first."""
    with fleet().reading() as session:
        return [titles.model_to_json(model) for model in checkpoints.listing(session, fleet())]


@blueprint.get("/memory")
@blueprint.response(200)
def memory() -> dict[str, Any]:
    """Add up the memory of the live machines."""
    with fleet().reading() as session:
        found = machines.listing(session)
        now = fleet().clock()
        return translate.memory_to_json([m.device for m in found if machines.is_alive(m, fleet().limits, now)])


@blueprint.post("/png-info")
@blueprint.arguments(schemas.A1111PictureSchema)
@blueprint.response(200, schemas.A1111PngInfoSchema)
def png_info(body: Mapping[str, Any]) -> dict[str, Any]:
    """Read what a picture says about how it was drawn, ours or Automatic1111's."""
    info, items = read_picture(translate.to_bytes(body["image"]))
    return {"info": info, "items": items, "parameters": parse(info) if info else {}}


@blueprint.get("/samplers")
@blueprint.response(200)
def list_samplers() -> list[dict[str, Any]]:
    """List the samplers."""
    return samplers.samplers_to_json()


@blueprint.get("/schedulers")
@blueprint.response(200)
def list_schedulers() -> list[dict[str, Any]]:
    """List the schedules."""
    return samplers.schedules_to_json()


networks.add_routes(blueprint)


def _null() -> Response:
    """Answer null: Automatic1111 does where it has nothing to say, and clients read every body as JSON."""
    return jsonify(None)


def _always(rule: str, method: str, answer: Any, about: str) -> None:
    """Add a route that has one answer."""

    def view() -> Response:
        return jsonify(answer)

    view.__doc__ = about
    name = f"{method}-{rule.strip('/')}".lower()
    blueprint.route(rule, methods=[method], endpoint=name)(blueprint.response(200)(view))


def _not_yet(rule: str, what: str) -> None:
    """Add a route that says what cannot be done yet."""

    def view() -> Response:
        raise Refused(501, "not_possible", f"{what} cannot be done by this server yet")

    view.__doc__ = f"Say that {what} cannot be done yet."
    documented = blueprint.alt_response(501, schema=schemas.A1111ErrorSchema)(view)
    blueprint.route(rule, methods=["POST"], endpoint=rule.strip("/"))(documented)


@blueprint.get("/upscalers")
@blueprint.response(200)
def list_upscalers() -> list[dict[str, Any]]:
    """List what the hires fix may name beside its modes over latents: those of the catalogue come last."""
    with fleet().reading() as session:
        known = [model.id for model in models.listing(session, kind="upscaler")]
    nothing = {"model_name": None, "model_path": None, "model_url": None, "scale": 4}
    return [{"name": name, **nothing} for name in ("None", *PIXELS, *known)]


for _rule, _answer, _about in (
    ("/cmd-flags", {"api": True, "nowebui": True}, "Show the flags that this server behaves as if started with."),
    ("/latent-upscale-modes", [{"name": name} for name in LATENT], "List the hires fix's modes over latents."),
    ("/hypernetworks", [], "List hypernetworks: none."),
    ("/face-restorers", [], "List face restorers: none."),
    ("/realesrgan-models", [], "List RealESRGAN models: none."),
    ("/prompt-styles", [], "List prompt styles: none."),
    ("/scripts", {"txt2img": [], "img2img": []}, "List scripts: none."),
    ("/script-info", [], "Describe scripts: none."),
    ("/extensions", [], "List extensions: none."),
):
    _always(_rule, "GET", _answer, _about)

for _rule in ("/refresh-checkpoints", "/refresh-vae", "/refresh-loras", "/refresh-embeddings"):
    _always(_rule, "POST", None, "Do nothing: what machines have is always seen at once.")

for _rule in ("/unload-checkpoint", "/reload-checkpoint"):
    _always(_rule, "POST", {}, "Do nothing: machines look after their memory themselves.")

for _rule, _what in (
    ("/extra-single-image", "upscaling and restoring faces"),
    ("/extra-batch-images", "upscaling and restoring faces"),
    ("/interrogate", "describing a picture"),
):
    _not_yet(_rule, _what)
