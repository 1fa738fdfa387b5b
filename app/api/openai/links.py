"""Addresses of pictures that need no token: OpenAI's clients fetch them with whatever is at hand, for an hour.

What stands in one is sealed by the server's own key; nobody makes another, or lets one hold for longer.
"""

from datetime import timedelta
from uuid import UUID

from app.core.errors import ImageNotFound, Unreadable
from app.core.fleet import Fleet
from app.core.tables import Image

FOLDER = "/openai/v1/images/drawn"

HOLDS = timedelta(minutes=60)
"""As OpenAI's own."""

PURPOSE = "picture"
"""Tells what was sealed here from all else that the same key has sealed."""


def path_to(fleet: Fleet, image: Image) -> str:
    """Return the path under which a picture is shown to everybody who has it, from now on for as long as it holds."""
    until = int((fleet.clock() + HOLDS).timestamp())
    return f"{FOLDER}/{fleet.vault.seal(f'{PURPOSE} {image.id} {until}')}.{image.media_type.rpartition('/')[2]}"


def image_of(fleet: Fleet, name: str) -> UUID:
    """Return which picture the last part of such a path shows; raises ImageNotFound for what is none, or too old."""
    try:
        purpose, image_id, until = fleet.vault.unseal(name.partition(".")[0]).split(" ")
    except (Unreadable, ValueError):
        raise ImageNotFound("this is no address of a picture; take one out of an answer as it is") from None
    if purpose != PURPOSE:
        raise ImageNotFound("this is no address of a picture; take one out of an answer as it is")
    if int(until) <= fleet.clock().timestamp():
        raise ImageNotFound(
            f"addresses of pictures hold for {HOLDS.seconds // 60} minutes, and this one is older; GET "
            f"/v1/images/{image_id} with a token shows the picture"
        )
    return UUID(image_id)
