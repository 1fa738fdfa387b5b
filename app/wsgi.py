"""The web application for gunicorn: `gunicorn -c python:app.server app.wsgi:application`."""

import os

from app import logs
from app.api.application import make_application
from app.bootstrap import make_fleet
from app.settings import Settings

settings = Settings.load(os.environ).require_broker()
logs.configure(settings.log_level)
application = make_application(make_fleet(settings), settings)
