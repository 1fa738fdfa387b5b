"""The v1 dialect's blueprint, which each module of its routes adds to."""

from flask_smorest import Blueprint

from app.api.door import Auth, Dialect
from app.api.v1 import translate

blueprint = Blueprint("v1", __name__, url_prefix="/v1", description="Jobs, pictures, models and machines.")
dialect = Dialect("v1", ("/v1",), Auth.CLIENT, translate.say, (blueprint,))
