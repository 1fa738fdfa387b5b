"""This server's limits on orders, the same for every dialect."""

from collections.abc import Mapping
from typing import Any

from app.api.door import settings


def problems_of(order: Mapping[str, Any]) -> dict[str, list[str]]:
    """Hold what an order asks for against the settings.

    Takes `steps`, `width`, `height`, `n`, `prompt` and `negative_prompt`, any of them missing or None; returns
    messages by field, empty where everything is within the limits.
    """
    known = settings()
    most = {"steps": known.max_steps, "width": known.max_size, "height": known.max_size, "n": known.max_images}
    problems = {
        name: [f"is {order[name]}; this server's limit is {limit}"]
        for name, limit in most.items()
        if order.get(name) is not None and order[name] > limit
    }
    for name in ("prompt", "negative_prompt"):
        if len(order.get(name) or "") > known.max_prompt:
            problems[name] = [f"has {len(order[name])} characters; this server's limit is {known.max_prompt}"]
    return problems
