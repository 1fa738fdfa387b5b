"""What happens to a drawn picture before it is handed over: first checked, then cut out."""

import numpy as np
from PIL.Image import Image, fromarray

from tasks.machine.drivers import onnx
from tasks.machine.drivers.contract import Order
from tasks.machine.drivers.safety import BLACKED_OUT, Checker, blacked_out


def finished(image: Image, order: Order, checker: Checker | None) -> tuple[Image, tuple[str, ...]]:
    """Return the picture as it was ordered, and notes for its author; raises CannotDraw."""
    if checker is not None and checker.flags(image):
        black = blacked_out(image)
        return black.convert("RGBA") if order.spec.remove_background else black, (BLACKED_OUT,)
    return cut_out(image, order) if order.spec.remove_background else image, ()


def cut_out(image: Image, order: Order) -> Image:
    """Make everything see-through but what is in front; raises CannotDraw for an ONNX file that cannot tell."""
    model = order.companions[str(order.spec.remove_background)]
    in_front = onnx.seen(model, image, onnx.recipe_of(model, "background"))
    whole = image.convert("RGB")
    whole.putalpha(fromarray((in_front * 255).round().astype(np.uint8)))
    return whole
