"""The pictures that orders begin with: fetched from the server, held against their names, kept for the next order."""

import io
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from PIL import Image

from tasks.machine.drivers.contract import CannotDraw
from tasks.machine.errors import FleetAway, MachineError, Refused

KEPT_BYTES = 64 * 10**6
"""Of encoded pictures: variations of one picture, or a list of prompts over it, fetch it once."""

GONE = 404


class PictureGone(MachineError):
    """The server no longer has a picture that the order begins with."""

    code = "picture_gone"
    permanent = True


def no_pictures(wanted: Sequence[str]) -> Mapping[str, Image.Image]:
    """Have no pictures; raises CannotDraw for orders that need some."""
    if wanted:
        raise CannotDraw("this machine cannot fetch the pictures that the order begins with")
    return {}


@dataclass(slots=True)
class Pictures:
    """Fetches pictures and keeps the last ones; for one thread."""

    fetch: Callable[[str], bytes]
    """Return a picture's bytes by their SHA-256; raises FleetAway, and Refused where there is none."""
    most_bytes: int = KEPT_BYTES
    _kept: OrderedDict[str, bytes] = field(default_factory=OrderedDict)

    def __call__(self, wanted: Sequence[str]) -> Mapping[str, Image.Image]:
        """Return pictures, decoded, by their SHA-256. Raises PictureGone, and FleetAway to try again later."""
        return {name: _decoded(self._bytes_of(name), name) for name in wanted}

    def _bytes_of(self, name: str) -> bytes:
        if name in self._kept:
            self._kept.move_to_end(name)
            return self._kept[name]
        try:
            data = self.fetch(name)
        except Refused as exc:
            if exc.status != GONE:
                raise
            raise PictureGone(
                f"the server no longer has picture {name}, which the order begins with; upload it again and order anew"
            ) from exc
        found = sha256(data).hexdigest()
        if found != name:
            raise FleetAway(f"picture {name} arrived as {found}: it was changed on its way, or is damaged in the store")
        self._kept[name] = data
        while len(self._kept) > 1 and sum(map(len, self._kept.values())) > self.most_bytes:
            self._kept.popitem(last=False)
        return data


def _decoded(data: bytes, name: str) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as opened:
            opened.load()
            return opened.copy()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as exc:
        raise PictureGone(f"picture {name} cannot be read; upload it again and order anew") from exc
