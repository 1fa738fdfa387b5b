"""From a photo to what a ControlNet reads: edges, how near things are, skeletons and faces.

A table by kind. Edges are drawn here, depth by an ONNX file of the catalogue; the others by packages that a machine may
have beside (docs/drivers.md, "Annotators").
"""

import logging
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import numpy as np
from PIL.Image import Image, fromarray

from app.core.extras import Control
from tasks.machine.drivers import onnx
from tasks.machine.drivers.canny import canny
from tasks.machine.drivers.contract import CannotDraw, ModelFiles, Order

log = logging.getLogger(__name__)

READY = "or make the control picture yourself and leave annotate out"


def control_picture(control: Control, order: Order) -> Image:
    """Return what a ControlNet is shown: the order's picture, or what the annotator makes from it.

    Raises CannotDraw that says what to install where this machine has no annotator of that kind.
    """
    picture = order.pictures[control.image].convert("RGB")
    return seen(picture, control.kind, control.annotator, order) if control.annotate else picture


def seen(picture: Image, kind: str, annotator: str | None, order: Order) -> Image:
    """Return what the annotator of a kind sees in a picture, by the id of the model that it looks with.

    Raises CannotDraw as `control_picture` does.
    """
    model = order.companions.get(annotator) if annotator else None
    return ANNOTATORS[kind](picture.convert("RGB"), model)


def _edges(picture: Image, _model: ModelFiles | None) -> Image:
    return canny(picture)


def _depth(picture: Image, model: ModelFiles | None) -> Image:
    """Draw near things bright, as the ControlNets for MiDaS's depth have learnt."""
    if model is None:
        raise CannotDraw(
            "depth from a photo needs a model of kind onnx in the catalogue that estimates it, such as MiDaS or Depth "
            f"Anything, tagged depth; {READY}"
        )
    values = onnx.seen(model, picture, onnx.recipe_of(model, "annotator"))
    return fromarray((values * 255).round().astype(np.uint8)).convert("RGB")


def _openpose(picture: Image, model: ModelFiles | None) -> Image:
    module = _package("controlnet_aux", "openpose", "controlnet-aux")
    if model is None:
        raise CannotDraw(
            "openpose from a photo needs its detectors in the catalogue, tagged openpose, such as "
            f"hf://lllyasviel/Annotators?include=*pose_model.pth&include=facenet.pth; {READY}"
        )
    return _fitted(module.OpenposeDetector.from_pretrained(str(model.path))(picture, output_type="pil"), picture)


def _mediapipe_face(picture: Image, _model: ModelFiles | None) -> Image:
    _package("mediapipe", "mediapipe_face", "mediapipe controlnet-aux")
    module = _package("controlnet_aux", "mediapipe_face", "mediapipe controlnet-aux")
    return _fitted(module.MediapipeFaceDetector()(picture, output_type="pil"), picture)


def _mediapipe_pose(_picture: Image, _model: ModelFiles | None) -> Image:
    raise CannotDraw(f"this version makes no mediapipe_pose from a photo: take openpose, {READY}")


def _package(name: str, kind: str, install: str) -> Any:
    try:
        return import_module(name)
    except ImportError as exc:
        raise CannotDraw(
            f"this machine makes no {kind} from a photo: pip install {install} on it (with a torchvision that fits its "
            f"torch), {READY}"
        ) from exc


def _fitted(drawn: Image, picture: Image) -> Image:
    return drawn.convert("RGB").resize(picture.size)


ANNOTATORS: Mapping[str, Callable[[Image, ModelFiles | None], Image]] = {
    "canny": _edges,
    "depth": _depth,
    "openpose": _openpose,
    "mediapipe_face": _mediapipe_face,
    "mediapipe_pose": _mediapipe_pose,
}
