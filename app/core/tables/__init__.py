"""The tables: what the fleet must not forget."""

from app.core.tables.clients import Caller, IdempotencyKey, Turn
from app.core.tables.columns import Base, UtcDateTime
from app.core.tables.engines import Engine
from app.core.tables.images import DoomedFile, Image, Input
from app.core.tables.jobs import Attempt, Job, queue_of
from app.core.tables.machines import Holding, Machine, PeerFile
from app.core.tables.models import Enrichment, Model, Pace
from app.core.tables.server import Counter, Heartbeat, Measured
from app.core.tables.webhooks import Delivery, DeliveryTry, Hook

__all__ = [
    "Attempt",
    "Base",
    "Caller",
    "Counter",
    "Delivery",
    "DeliveryTry",
    "DoomedFile",
    "Engine",
    "Enrichment",
    "Heartbeat",
    "Holding",
    "Hook",
    "IdempotencyKey",
    "Image",
    "Input",
    "Job",
    "Machine",
    "Measured",
    "Model",
    "Pace",
    "PeerFile",
    "Turn",
    "UtcDateTime",
    "queue_of",
]
