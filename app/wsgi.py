"""The web application for gunicorn, as each of the two ports shows it.

`gunicorn -c python:app.server app.wsgi:application` and `gunicorn -c python:app.a1111_server app.wsgi:a1111`.
"""

import os

from app import logs, tracing
from app.api.a1111.root import AtTheRoot
from app.api.application import make_application
from app.bootstrap import make_fleet
from app.settings import Settings

settings = Settings.load(os.environ).require_broker()
logs.configure(settings.log_level, settings.log_format)
tracing.start("web", os.environ)
application = make_application(make_fleet(settings), settings)
a1111 = AtTheRoot(application)
