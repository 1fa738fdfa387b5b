"""txt2img and img2img: orders that are drawn while their client waits."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from app.api import ordering
from app.api.a1111 import checkpoints, options, ordered, schemas, translate
from app.api.a1111.blueprint import blueprint, problems
from app.api.door import Refused, caller, fleet
from app.api.hooks import hook_of, without_hook
from app.api.webui import orders, placing, refusals
from app.core import callers, jobs
from app.core.fleet import Transaction
from app.core.jobs import Terms
from app.core.tables import Job
from app.core.webhooks import HookRequest


@blueprint.post("/txt2img")
@blueprint.arguments(orders.Txt2ImgSchema, required=False)
@blueprint.response(200, schemas.A1111DrawnSchema)
@blueprint.doc(parameters=[ordering.KEY_HEADER])
@problems(404, 409, 413, 429, 500, 503, 504)
def txt2img(order: Mapping[str, Any]) -> dict[str, Any]:
    """Draw, and answer with the pictures; a client that goes away leaves its job running."""
    return _draw(order)


@blueprint.post("/img2img")
@blueprint.arguments(orders.Img2ImgSchema)
@blueprint.response(200, schemas.A1111DrawnSchema)
@blueprint.doc(parameters=[ordering.KEY_HEADER])
@problems(404, 409, 413, 429, 500, 503, 504)
def img2img(order: Mapping[str, Any]) -> dict[str, Any]:
    """Draw from a picture, or over what its mask shows, and answer with the pictures."""
    if not order["init_images"]:
        raise Refused(404, "init_image_not_found", "Init image not found")
    return _draw(order)


def _draw(order: Mapping[str, Any]) -> dict[str, Any]:
    refusals.refuse_what_cannot_be(order)
    hook, order = hook_of(order), without_hook(order)
    (job,) = ordered.awaited(lambda: _placed(placing.with_pictures_kept(order), hook))
    with fleet().reading() as session:
        model = jobs.model_of(session, job)
    return translate.drawn_to_json(order, job, model, ordered.drawn_by_then(job))


def _placed(order: Mapping[str, Any], hook: HookRequest | None) -> list[UUID]:
    def draw(tx: Transaction, terms: Terms) -> list[Job]:
        kept = callers.options_of(tx.session, caller())
        wanted = (order["override_settings"] or {}).get(options.MODEL)
        model = checkpoints.to_draw_with(tx.session, wanted, kept, fleet())
        spec = placing.to_spec(tx.session, order, model, options.options_of(kept))
        options.keep_overrides(tx, order)
        return [jobs.submit(tx, spec, terms)]

    return ordered.placed(draw, hook)
