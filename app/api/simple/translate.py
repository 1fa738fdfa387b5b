"""The simple dialect's shapes (seed 001). Pure."""

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any

from app.api.door import Problem
from app.api.simple.schemas import with_size
from app.core import computers, machines
from app.core.fleet import Limits
from app.core.lifecycle import HoldingState
from app.core.spec import GenerationSpec
from app.core.tables import Attempt, Image, Job, Machine, Model

Bytes = Callable[[Image], bytes]


def to_spec(order: Mapping[str, Any]) -> GenerationSpec:
    """Read an order that the schema has accepted."""
    drawn = {field.name for field in fields(GenerationSpec)}
    asked = {name: value for name, value in with_size(order).items() if name in drawn}
    return GenerationSpec(model_id=order["model"], **asked)


def job_to_json(
    job: Job, shown: Sequence[Image], url: Callable[[str], str], read: Bytes | None = None
) -> dict[str, Any]:
    """Show a job with its pictures; with `read` they carry their bytes."""
    return {
        "job_id": job.id,
        "status": job.state.value,
        "model": job.model_id,
        "images": [_image_to_json(image, url, read) for image in shown],
        "url": url(f"/v1/jobs/{job.id}"),
    }


def _image_to_json(image: Image, url: Callable[[str], str], read: Bytes | None) -> dict[str, Any]:
    about = {
        "image_id": image.id,
        "seed": image.seed,
        "width": image.width,
        "height": image.height,
        "media_type": image.media_type,
        "url": url(f"/v1/images/{image.id}"),
    }
    return about | ({"base64": b64encode(read(image)).decode()} if read else {})


def model_to_json(model: Model, *, ready: bool) -> dict[str, Any]:
    """Show a model."""
    return {
        "name": model.id,
        "label": model.name,
        "description": model.description,
        "base": model.base,
        "ready": ready,
        "options": model.options,
    }


def status_to_json(
    found: Sequence[Machine], running: Sequence[Attempt], limits: Limits, now: datetime
) -> dict[str, Any]:
    """Show the machines, and what they have in all."""
    alive = [machine for machine in found if machines.is_alive(machine, limits, now)]
    gpus = [machine for machine in alive if machine.device.get("type") == "cuda"]
    known = computers.of_each(alive)
    return {
        "status": "ok" if any(_ready(machine) for machine in alive) else "idle",
        "resources": {
            "machines": len(alive),
            "gpus": len(gpus),
            "gpu_memory": _sum(gpus),
            "cpus": sum(map(_cpus, known)),
            "cpu_memory": computers.memory(known),
        },
        "machines": [_machine_to_json(machine, running, is_alive=machine in alive) for machine in found],
    }


def _machine_to_json(machine: Machine, running: Sequence[Attempt], *, is_alive: bool) -> dict[str, Any]:
    computer = computers.of(machine)
    return {
        "name": machine.id,
        "alive": is_alive,
        "device": str(machine.device.get("name", "unknown")),
        "type": str(machine.device.get("type", "unknown")),
        "memory": _sum([machine]),
        "cpus": _cpus(computer),
        "cpu_load": computer.get("load"),
        "cpu_memory": computers.memory([computer]),
        "models": _ready(machine),
        "jobs": sum(attempt.machine_id == machine.id for attempt in running),
    }


def _ready(machine: Machine) -> list[str]:
    return [holding.model_id for holding in machine.holdings if holding.state == HoldingState.READY]


def _cpus(computer: Mapping[str, Any]) -> int:
    return int(computer.get("cpus") or 0)


def _sum(found: Sequence[Machine]) -> dict[str, int]:
    return computers.memory(machine.device for machine in found)


def say(problem: Problem) -> dict[str, Any]:
    """Say what went wrong: {"detail": sentence, "code", "fields"?}; FastAPI's servers say `detail`."""
    body: dict[str, Any] = {"detail": problem.message, "code": problem.code}
    return body | ({"fields": problem.fields} if problem.fields else {})
