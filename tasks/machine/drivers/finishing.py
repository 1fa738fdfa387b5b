"""What happens to a drawn picture before it is handed over: checked, made larger, cut out."""

from PIL.Image import Image

from tasks.machine.drivers.contract import CannotDraw, Order


def finished(image: Image, order: Order) -> tuple[Image, tuple[str, ...]]:
    """Return the picture as it was ordered, and notes for its author; raises CannotDraw."""
    spec = order.spec
    for name in ("upscale", "remove_background", "safety_check"):
        if getattr(spec, name):
            raise CannotDraw(f"this version cannot do {name}; leave it out")
    return image, ()
