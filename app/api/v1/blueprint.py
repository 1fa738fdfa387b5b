"""The v1 dialect's blueprint, which each module of its routes adds to."""

from flask_smorest import Blueprint

from app.api.door import Auth, Dialect
from app.api.v1 import translate
from app.api.v1.schemas import V1ErrorSchema

blueprint = Blueprint("v1", __name__, url_prefix="/v1", description="Jobs, pictures, models and machines.")
dialect = Dialect(
    "v1",
    ("/v1",),
    Auth.CLIENT,
    translate.say,
    (blueprint,),
    operators=("/v1/models", "/v1/engines", "/v1/machines"),
    error=V1ErrorSchema,
    title="v1, the whole API",
    about="Everything that this server can do: order pictures and watch them being drawn (jobs, events), pictures to "
    "begin with (inputs), the catalogue (models), pipelines kept in memory (engines), and the machines.",
)
