"""Routes that have one answer: what this server has not, and what it needs not be told."""

from typing import Any

from flask import Response, jsonify
from flask_smorest import Blueprint

from app.api.a1111.blueprint import beside, blueprint
from app.api.webui.controlnet import SCRIPT

CONTROLNET_INFO = {"name": SCRIPT, "is_alwayson": True, "args": []}
"""Its units are objects; the list of its arguments in Automatic1111 is as long as it shows units."""


@beside.get("/")
@beside.response(200)
def greet() -> dict[str, str]:
    """Say who is here; some clients look before they ask."""
    return {"name": "imagefleet", "api": "/sdapi/v1"}


def _always(where: Blueprint, rule: str, method: str, answer: Any, about: str) -> None:
    """Add a route that has one answer."""

    def view() -> Response:
        return jsonify(answer)

    view.__doc__ = about
    name = f"{method}-{rule.strip('/').replace('/', '-')}".lower()
    where.route(rule, methods=[method], endpoint=name)(where.response(200)(view))


for _rule, _answer, _about in (
    ("/cmd-flags", {"api": True, "nowebui": True}, "Show the flags that this server behaves as if started with."),
    ("/hypernetworks", [], "List hypernetworks: none."),
    ("/face-restorers", [], "List face restorers: none."),
    ("/realesrgan-models", [], "List RealESRGAN models: none; upscalers of the catalogue are in /upscalers."),
    ("/prompt-styles", [], "List prompt styles: none."),
    ("/scripts", {"txt2img": [SCRIPT], "img2img": [SCRIPT]}, "List scripts: ControlNet."),
    (
        "/script-info",
        [{**CONTROLNET_INFO, "is_img2img": is_img2img} for is_img2img in (False, True)],
        "Describe scripts: ControlNet.",
    ),
    ("/extensions", [], "List extensions: none."),
):
    _always(blueprint, _rule, "GET", _answer, _about)

for _rule in ("/refresh-checkpoints", "/refresh-vae", "/refresh-loras", "/refresh-embeddings"):
    _always(blueprint, _rule, "POST", None, "Do nothing: what machines have is always seen at once.")

for _rule in ("/unload-checkpoint", "/reload-checkpoint"):
    _always(blueprint, _rule, "POST", {}, "Do nothing: machines look after their memory themselves.")

_always(beside, "/internal/ping", "GET", {}, "Answer: the page of Automatic1111 asks whether the server is there.")
