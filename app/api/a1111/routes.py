"""The Automatic1111 dialect, whole: below /a1111 and at the root of the second port; each module adds its routes."""

from app.api.a1111 import controlnet, drawing, extras, fixed, lists, options, progress
from app.api.a1111.blueprint import dialect

__all__ = ["controlnet", "dialect", "drawing", "extras", "fixed", "lists", "options", "progress"]
