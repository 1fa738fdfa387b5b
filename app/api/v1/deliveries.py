"""v1: what a job's webhook was told, and telling it again."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from marshmallow import Schema, fields

from app.api.door import fleet, require_own
from app.api.v1.blueprint import blueprint
from app.api.v1.schemas import V1ErrorSchema
from app.core import deliveries
from app.core.lifecycle import DeliveryState
from app.core.tables import Delivery, DeliveryTry, Hook


class TrySchema(Schema):
    """One try to deliver an event."""

    number = fields.Integer(required=True)
    at = fields.DateTime(required=True)
    seconds = fields.Float(required=True)
    status = fields.Integer(allow_none=True, metadata={"description": "the receiver's HTTP status"})
    error = fields.String(allow_none=True)


class DeliverySchema(Schema):
    """An event that is or was owed to a webhook."""

    delivery_id = fields.UUID(required=True, metadata={"description": "the `webhook-id` of every try"})
    event = fields.String(required=True)
    state = fields.String(required=True, metadata={"enum": [state.value for state in DeliveryState]})
    created_at = fields.DateTime(required=True)
    next_try_at = fields.DateTime(allow_none=True)
    ended_at = fields.DateTime(allow_none=True)
    reason = fields.String(allow_none=True, metadata={"description": "why it was given up, or is void"})
    tries = fields.List(fields.Nested(TrySchema), required=True)


class DeliveryListSchema(Schema):
    """What a job's webhook was told."""

    url = fields.String(allow_none=True, metadata={"description": "without its query; null: the job has no webhook"})
    events = fields.List(fields.String())
    deliveries = fields.List(fields.Nested(DeliverySchema), required=True)


@blueprint.get("/jobs/<uuid:job_id>/deliveries")
@blueprint.response(200, DeliveryListSchema)
@blueprint.alt_response(404, schema=V1ErrorSchema)
def list_deliveries(job_id: UUID) -> dict[str, Any]:
    """Show every event that was owed to the job's webhook, and every try to deliver it."""
    with fleet().reading() as session:
        hook, found = deliveries.of_job(session, job_id)
        shown = [_to_json(delivery) for delivery in found]
        return {**_hook_to_json(hook), "deliveries": shown}


@blueprint.post("/jobs/<uuid:job_id>/deliveries/<uuid:delivery_id>/redeliver")
@blueprint.response(202, DeliverySchema)
@blueprint.alt_response(404, schema=V1ErrorSchema)
@blueprint.alt_response(409, schema=V1ErrorSchema)
def redeliver(job_id: UUID, delivery_id: UUID) -> Mapping[str, Any]:
    """Deliver an event once more, under its old id; 409 while it or a later one is owed, or when it is void."""
    with fleet().transaction() as tx:
        require_own(tx.session, job_id)
        delivery = deliveries.redeliver(tx, job_id, delivery_id)
        return _to_json(delivery)


def _hook_to_json(hook: Hook | None) -> dict[str, Any]:
    return {"url": None, "events": []} if hook is None else {"url": hook.url, "events": hook.events}


def _to_json(delivery: Delivery) -> dict[str, Any]:
    return {
        "delivery_id": delivery.id,
        "event": f"job.{delivery.event}",
        "state": delivery.state.value,
        "created_at": delivery.created_at,
        "next_try_at": delivery.next_try_at if delivery.state == DeliveryState.OWED else None,
        "ended_at": delivery.ended_at,
        "reason": delivery.reason,
        "tries": [_try_to_json(each) for each in delivery.tries],
    }


def _try_to_json(each: DeliveryTry) -> dict[str, Any]:
    return {
        "number": each.number,
        "at": each.at,
        "seconds": each.seconds,
        "status": each.status,
        "error": each.error,
    }
