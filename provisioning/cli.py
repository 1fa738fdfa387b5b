"""``python -m provisioning`` and ``imagefleet provision``."""

import argparse
import errno
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

from provisioning import report
from provisioning.errors import SettingsError
from provisioning.events import Event, Listener
from provisioning.outcome import Outcome
from provisioning.plan import Planner
from provisioning.provisioner import Provisioner
from provisioning.settings import Settings

ALL_READY, NONE_READY, USAGE, PARTLY_READY = 0, 1, 2, 3
CANNOT_RUN, NO_SUCH_COMMAND = 126, 127
STOPPED = 128
"""A one-shot run that a signal stopped ends with 128 and the signal's number, as shells say it."""

DESCRIPTION = """Bring models to this machine, prove them by hash, and leave receipts.

MODEL names what is needed; without any, MACHINE_MODELS_NEEDED does. FLEET_URL says where the catalogue is,
MODELS_DIR where the files go, HF_TOKEN and CIVITAI_TOKEN open gated models."""
EPILOG = """exit codes: 0 all ready, 3 partly ready, 1 none ready, 2 wrong usage or settings.
CMD is run in place of this program once at least one model is ready, or none was needed."""


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run provisioning with the words after the program's name, and return its exit code."""
    words, command = split(argv)
    parser = arguments()
    try:
        given = parser.parse_args(words)
        if command is not None and not command:
            parser.error("nothing stands after --, expected a command")
        if command and given.watch:
            parser.error("--watch goes on for ever, no command can follow it")
    except SystemExit as end:
        return USAGE if end.code else 0
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        settings = Settings.from_environ(environ)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return USAGE
    models = tuple(given.models) or settings.models_needed
    if given.plan:
        return show_plan(settings, models, as_json=given.json)
    with report.fitting(as_json=given.json) as tell:
        how = {"watch": given.watch, "verify": given.verify, "smallest_first": given.smallest_first}
        code = provision(settings, models, tell, **how)
    if command and code in {ALL_READY, PARTLY_READY}:
        return become(command, environ)
    return code


def split(argv: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """Part our own words from the command after ``--``; None where there is no ``--``."""
    words = list(argv)
    if "--" not in words:
        return words, None
    mark = words.index("--")
    return words[:mark], words[mark + 1 :]


def arguments() -> argparse.ArgumentParser:
    """Return the command line's grammar."""
    parser = argparse.ArgumentParser(
        prog="python -m provisioning",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [MODEL ...] [--plan] [--json] [--watch] [--verify] [--smallest-first] [-- CMD ...]",
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help="model ids")
    parser.add_argument("--plan", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument("--json", action="store_true", help="write JSON lines to standard output")
    parser.add_argument("--watch", action="store_true", help="go on for ever: repair, and try again what failed")
    parser.add_argument("--smallest-first", action="store_true", help="the smallest first, not the first listed")
    parser.add_argument("--verify", action="store_true", help="hash again what has a receipt")
    return parser


def provision(settings: Settings, models: Sequence[str], tell: Listener, **how: bool) -> int:
    """Provision until all is done, or for ever, and say how it ended; `how` is what `Provisioner.run` takes."""
    provisioner = Provisioner(settings, tell)
    with stopped_by_signals(provisioner.stop) as received:
        outcome = provisioner.run(models, **how)
    tell(summary(outcome))
    if outcome.stopped:
        return 0 if how.get("watch") else STOPPED + (received[0] if received else signal.SIGTERM)
    if not outcome.failed:
        return ALL_READY
    return PARTLY_READY if outcome.ready else NONE_READY


def show_plan(settings: Settings, models: Sequence[str], *, as_json: bool) -> int:
    """Print what would be done; the exit code says whether it would work."""
    plan = Planner(settings).plan(models)
    if as_json:
        report.JsonLines()(Event("plan", None, plan.to_json()))
    else:
        sys.stdout.write("\n".join(plan.sentences()) + "\n")
    if set(models) <= plan.works:
        return ALL_READY
    return PARTLY_READY if plan.works else NONE_READY


def summary(outcome: Outcome) -> Event:
    """Say how it ended, loudly where something is missing."""
    failed = {name: {"code": error.code, "message": str(error)} for name, error in outcome.failed.items()}
    if outcome.stopped:
        message = "stopped; what has arrived is kept"
    elif failed:
        lines = [f"{len(outcome.ready)} ready, {len(failed)} NOT ready:"]
        message = "\n".join([*lines, *(f"  {name}: {each['message']}" for name, each in failed.items())])
    else:
        message = f"all ready: {', '.join(outcome.ready)}" if outcome.ready else "no model was asked for"
    level = "error" if failed else "info"
    return Event("summary", None, {"ready": list(outcome.ready), "failed": failed, "level": level, "message": message})


@contextmanager
def stopped_by_signals(stop: threading.Event) -> Iterator[list[int]]:
    """Let SIGTERM and SIGINT set an event for the length of a block; yields the signals that came."""
    received: list[int] = []

    def on_signal(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {each: signal.signal(each, on_signal) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def become(command: Sequence[str], environ: Mapping[str, str]) -> int:
    """Replace this process by a command. Returns only if there is no such command."""
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execvpe(command[0], list(command), dict(environ))  # noqa: S606 - becoming it is the point; no shell is wanted
    except OSError as error:
        sys.stderr.write(f"{command[0]} cannot be run: {error.strerror}\n")
        return CANNOT_RUN if error.errno == errno.EACCES else NO_SUCH_COMMAND
