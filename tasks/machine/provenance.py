"""The replay receipt: what drew a picture, so that it can be drawn again and be held against the first one.

It names files by what the catalogue calls their model and by their place inside of it, never by where they lie on this
machine's disk.
"""

from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from tasks.machine.drivers.contract import ModelFiles, Order, Picture

FORMAT = 1
"""Of the receipt; a later one may say more, and means the same by what this one says."""


def receipt_of(order: Order, picture: Picture, device: str) -> dict[str, Any]:
    """Return the receipt of a picture: plain JSON values, see docs/drivers.md, "The replay receipt".

    `device` is the name of what draws.
    """
    return {
        "format": FORMAT,
        "imagefleet": _own_version(),
        "device": device,
        "seed": picture.seed,
        "files": list(_files(order)),
        "pictures": list(order.spec.pictures),
        **({"notes": list(picture.notes)} if picture.notes else {}),
        **({} if picture.skipped_after is None else {"skipped_after": picture.skipped_after}),
        **(picture.seat.to_json() if picture.seat else {}),
        **picture.drawn_with,
    }


def versions_of(*packages: str) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _files(order: Order) -> Iterator[dict[str, str]]:
    seen = set()
    for model in (order.model, *order.companions.values()):
        for each in _with_parts(model):
            if each.model_id in seen:
                continue
            seen.add(each.model_id)
            for path, digest in sorted(each.hashes.items()):
                yield {"model_id": each.model_id, "path": path, "hash": digest}


def _with_parts(model: ModelFiles) -> Iterator[ModelFiles]:
    yield model
    for part in model.parts:
        yield from _with_parts(part)


@cache
def _own_version() -> str:
    return version("imagefleet")
