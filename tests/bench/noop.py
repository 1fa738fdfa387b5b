"""A Celery app that does nothing, on the same broker and with the same settings as ours: what Celery itself costs."""

import os
import time

from app.broker import make_celery
from app.settings import Settings

QUEUE = "bench-noop"
STARTED = "bench-noop-started"
"""A list of seconds from sending to start."""

app = make_celery(Settings.load(os.environ), "bench")


@app.task(name="bench.noop", shared=False)  # type: ignore[untyped-decorator]  # celery has no types
def noop() -> None:
    """Do nothing."""


@app.task(name="bench.tell", shared=False)  # type: ignore[untyped-decorator]  # as above
def tell(sent_at: float) -> None:
    """Leave how long it took until this was started."""
    took = time.time() - sent_at
    with app.connection_for_write() as connection:
        connection.default_channel.client.rpush(STARTED, took)
