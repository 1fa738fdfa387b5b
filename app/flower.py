"""Flower's Celery app: `celery --app=app.flower flower`. It knows the broker and nothing else.

It needs no tasks: Flower learns from the workers what they run. A message carries a job's id and no prompt, so there is
none that Flower could show.
"""

import os

from app.broker import make_celery
from app.settings import Settings

app = make_celery(Settings.load(os.environ).require_broker(), "imagefleet-flower")
