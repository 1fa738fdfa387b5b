"""The sdapi dialect's blueprint, to which its modules add their routes."""

from flask_smorest import Blueprint

from app.api.door import Auth, Dialect
from app.api.sdapi import schemas, translate

NAME = "sdapi"
ABOUT = "Automatic1111's orders, answered at once with the UUID of a job (seed 002)."

blueprint = Blueprint(NAME, __name__, url_prefix="/sdapi/v1", description=ABOUT)
dialect = Dialect(
    NAME,
    ("/sdapi",),
    Auth.CLIENT,
    translate.say,
    (blueprint,),
    error=schemas.SdapiErrorSchema,
    title="sdapi, Automatic1111's orders without waiting",
    about=(
        "txt2img and img2img with Automatic1111's fields answer at once with a UUID; ask for progress and pictures, or "
        "be told by a webhook. Clients that wait for their pictures find them below /a1111, or on the second port."
    ),
)
