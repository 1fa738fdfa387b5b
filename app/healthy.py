"""`python -m app.healthy PART`: ends with 0 where the part of a fleet that runs in this container is healthy, else 1.

What Compose, Kubernetes or an operator asks from inside, with nothing but the part's own variables. Each question goes
to the thing itself: over its port, through the broker, or to what it last did. It imports nothing that it need not,
since it is asked every few seconds.
"""

import base64
import os
import socket
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

ANSWER_SECONDS = 5.0

BEAT_SECONDS = 30.0
"""Beat sends something every two seconds; it waits for a broker that restarts."""

FLOWER = "http://127.0.0.1:5555/flower/api/queues/length"
"""It asks the broker, so that an answer says that Flower reaches it."""


def web(environ: Mapping[str, str]) -> str:
    """Ask the API whether it can serve, which it cannot without its database."""
    return _asked(f"http://127.0.0.1:{environ.get('PORT', '8000')}/ready", environ)


def a1111(environ: Mapping[str, str]) -> str:
    """Ask the same at the second port."""
    return _asked(f"http://127.0.0.1:{environ.get('A1111_PORT', '7860')}/ready", environ)


def control(environ: Mapping[str, str]) -> str:
    """Ask the worker through the broker, as it gets its tasks."""
    from app.broker import make_celery  # noqa: PLC0415  # the other parts are asked without Celery
    from app.settings import Settings  # noqa: PLC0415  # as above

    name = f"control@{socket.gethostname()}"
    celery = make_celery(Settings.load(environ).require_broker(), "imagefleet-healthy")
    answers = celery.control.ping(destination=[name], timeout=ANSWER_SECONDS, limit=1)
    return "" if answers else f"{name} did not answer through the broker within {ANSWER_SECONDS:g} s"


def beat(environ: Mapping[str, str]) -> str:
    """Look when the broker last took something of beat."""
    path = Path(environ["BEAT_FILE"])
    if not path.exists():
        return f"beat has sent nothing yet: {path} is not there"
    silent = time.time() - path.stat().st_mtime
    return "" if silent < BEAT_SECONDS else f"beat has sent nothing for {silent:.0f} s"


def flower(environ: Mapping[str, str]) -> str:
    """Ask Flower how long the queues are, with its own user and password."""
    return _asked(FLOWER, environ, environ.get("FLOWER_BASIC_AUTH", "").partition(",")[0])


def machine(environ: Mapping[str, str]) -> str:
    """Ask the machine whether it consumes the queue of a model."""
    return _asked(f"http://127.0.0.1:{environ['MACHINE_HEALTH_PORT']}/ready", environ)


PARTS: Mapping[str, Callable[[Mapping[str, str]], str]] = {
    part.__name__: part for part in (web, a1111, control, beat, flower, machine)
}


WHERE: Mapping[str, str] = {
    "BEAT_FILE": (
        "name a file, such as /tmp/beat, in the environment of beat and of this check alike, and start beat anew; it "
        "touches the file whenever the broker took something of it"
    ),
    "MACHINE_HEALTH_PORT": (
        "name a free port, such as 8001, in the environment of the machine and of this check alike, and start the "
        "machine anew; it answers there"
    ),
}
"""What to do about a variable that a part cannot be asked without."""


def _asked(url: str, environ: Mapping[str, str], user: str = "") -> str:
    """Ask an address; returns what is wrong, nothing where it answers 200."""
    request = urllib.request.Request(url)  # noqa: S310  # our own addresses
    if name := urlsplit(environ.get("FLEET_URL", "")).netloc:
        request.add_header("Host", name)  # the server may refuse others, see ALLOWED_HOSTS
    if user:
        request.add_header("Authorization", f"Basic {base64.b64encode(user.encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS):  # noqa: S310  # as above
            return ""
    except OSError as exc:
        return f"{url}: {exc}"


def main() -> None:
    """Ask the part that is named."""
    known = sys.argv[1:]
    if len(known) != 1 or known[0] not in PARTS:
        sys.exit(f"say which part: {', '.join(PARTS)}")
    try:
        trouble = PARTS[known[0]](os.environ)
    except KeyError as exc:
        name = str(exc.args[0])
        trouble = f"{name} is not set: {WHERE[name]}"
    if trouble:
        sys.exit(trouble)


if __name__ == "__main__":
    main()
