"""The doors that questions are put to: for each dialect what it takes, and how it says no."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.builders import MODEL

WORDS = "a red circle on a blue background"


@dataclass(frozen=True, slots=True)
class Door:
    """One way into the server, which takes JSON."""

    dialect: str
    path: str
    good: Mapping[str, Any]
    """A body that it takes."""
    accepted: int
    """The status with which it takes that."""
    shape: frozenset[str]
    """What its errors have at the top; some have more for wrong fields."""
    method: str = "POST"
    text: str = "prompt"
    """A field that holds words, or a list of them."""
    number: str = "steps"
    """A field that holds a number, or would if there were one: where there is none it is refused or let be."""
    model: str | None = None
    """The field that names a model."""
    unknown: int = 404
    """The status for a model that is not there."""
    invalid: int = 422
    """The status for a field that is wrong."""
    unreadable: int = 400
    """The status for what is no JSON."""
    other_kind: int = 415
    """The status for a body that is said to be something else."""
    headers: Mapping[str, str] = field(default_factory=dict)
    waits: bool = False
    """Its answer to an order tells where to ask for it."""

    def with_text(self, words: str) -> dict[str, Any]:
        """Return a good body with other words."""
        before = self.good.get(self.text)
        return {**self.good, self.text: [words] if isinstance(before, list) else words}


DOORS = [
    Door(
        "v1", "/v1/jobs", {"model_id": MODEL, "prompt": WORDS}, 202, frozenset({"error"}), model="model_id", waits=True
    ),
    Door(
        "v1",
        "/v1/models",
        {"id": "new", "name": "new.safetensors", "download_url": "https://models.example.org/new.safetensors"},
        201,
        frozenset({"error"}),
        text="description",
        number="size_bytes",
    ),
    Door(
        "simple",
        "/generate",
        {"model": MODEL, "prompt": WORDS, "wait": 0},
        202,
        frozenset({"detail", "code"}),
        model="model",
        waits=True,
    ),
    Door(
        "gallery",
        "/api/generate",
        {"model": MODEL, "prompt": WORDS},
        202,
        frozenset({"error", "code"}),
        model="model",
        waits=True,
    ),
    Door(
        "sdapi",
        "/sdapi/v1/txt2img",
        {"prompt": WORDS},
        202,
        frozenset({"detail", "error"}),
        model="override_settings",
        waits=True,
    ),
    Door(
        "a1111",
        "/a1111/sdapi/v1/txt2img",
        {"prompt": WORDS},
        504,  # nobody draws here, so it says after its time where the job will be
        frozenset({"detail"}),
        model="override_settings",
        unreadable=422,
    ),
    Door(
        "openai",
        "/openai/v1/images/generations",
        {"model": MODEL, "prompt": WORDS},
        202,
        frozenset({"error"}),
        number="n",
        model="model",
        invalid=400,
        headers={"Prefer": "wait=0"},
        waits=True,
    ),
    Door(
        "catalog",
        "/api/models/batch",
        {"model_ids": [MODEL]},
        200,
        frozenset({"error"}),
        text="model_ids",
        number="model_ids",
        invalid=400,
        other_kind=400,  # the seed knows no other status for a request that cannot be read
    ),
    Door(
        "machines",
        "/machines/v1/check-in",
        {"machine_id": "gpu-7", "boot_id": "boot-7", "version": "1"},
        200,
        frozenset({"code", "message", "facts"}),
        text="version",
        number="holdings",
    ),
]
"""One or more for each dialect that takes JSON. The others are asked in tests/api/test_doors.py."""
