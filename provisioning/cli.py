"""``python -m provisioning`` and ``imagefleet provision``."""

import argparse
import errno
import logging
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import StringIO
from pathlib import Path
from types import FrameType
from typing import TextIO

from provisioning import layout, report
from provisioning.errors import SettingsError
from provisioning.events import Event, Listener
from provisioning.outcome import Outcome
from provisioning.plan import Planner
from provisioning.provisioner import Provisioner
from provisioning.settings import Settings, is_model_id

ALL_READY, NONE_READY, USAGE, PARTLY_READY = 0, 1, 2, 3
CANNOT_RUN, NO_SUCH_COMMAND = 126, 127
EXAMPLE = "MODELS_DIR=/var/lib/imagefleet/models"
STOPPED = 128
"""A one-shot run that a signal stopped ends with 128 and the signal's number, as shells say it."""

DESCRIPTION = """Bring models to this machine, prove them by hash, and leave receipts.

MODEL names what is needed; without any, MACHINE_MODELS_NEEDED does. FLEET_URL says where the catalogue is,
MODELS_DIR where the files go, HF_TOKEN and CIVITAI_TOKEN open gated models."""
EPILOG = """exit codes: 0 all ready, 3 partly ready, 1 none ready, 2 wrong usage or settings.
CMD is run in place of this program once at least one model is ready, or none was needed."""


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run provisioning with the words after the program's name, and return its exit code."""
    sys.stdout, sys.stderr = sys.stdout or StringIO(), sys.stderr or StringIO()  # None where the shell closed them
    try:
        return run(argv, environ)
    finally:
        for stream in (sys.stdout, sys.stderr):
            forgive(stream)


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Understand the words and settings, and do what they say."""
    words, command = split(argv)
    parser = arguments()
    try:
        given = parser.parse_args(words)
        refuse_nonsense(parser, given, command)
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
    trouble = obstacle(settings, command, environ)
    if trouble is not None:
        sys.stderr.write(f"{trouble[1]}\n")
        return trouble[0]
    with report.fitting(as_json=given.json) as tell:
        how = {"watch": given.watch, "verify": given.verify, "smallest_first": given.smallest_first}
        code = provision(settings, models, tell, **how)
    if command and code in {ALL_READY, PARTLY_READY}:
        return become(command, environ)
    return code


def forgive(stream: TextIO) -> None:
    """Let what a reader that has gone away did not take vanish, or the interpreter would complain of it at its end."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def refuse_nonsense(parser: argparse.ArgumentParser, given: argparse.Namespace, command: list[str] | None) -> None:
    """End with usage and one sentence where the words do not fit together. Raises `SystemExit`."""
    wrong = next((each for each in given.models if not is_model_id(each)), None)
    if wrong is not None:
        parser.error(f"{wrong!r} is no model id; for example: flux-dev sdxl-base")
    if command is not None and not command:
        parser.error("nothing stands after --, expected a command")
    if command and given.watch:
        parser.error("--watch goes on for ever, no command can follow it")
    if given.plan and (command or given.watch or given.verify):
        parser.error("--plan does nothing, so --watch, --verify and a command cannot go with it")


def obstacle(settings: Settings, command: list[str] | None, environ: Mapping[str, str]) -> tuple[int, str] | None:
    """Find what would make all work useless in the end; returns an exit code and what to say."""
    if command and shutil.which(command[0], path=environ.get("PATH")) is None:
        found = Path(command[0]).exists() and os.sep in command[0]
        return (
            (CANNOT_RUN, f"{command[0]} cannot be run: it is not executable")
            if found
            else (
                NO_SUCH_COMMAND,
                f"{command[0]} cannot be run: there is no such command",
            )
        )
    try:
        layout.prepare(settings.models_dir)
    except OSError as error:
        reason = error.strerror or str(error)
        return USAGE, f"MODELS_DIR={str(settings.models_dir)!r} cannot be written to: {reason}; for example {EXAMPLE}"
    return None


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
    if threading.current_thread() is threading.main_thread():
        # A plan holds nothing that would have to be brought to an end, and its questions may hang for a while.
        signal.signal(signal.SIGINT, lambda _number, _frame: os._exit(STOPPED + signal.SIGINT))
    plan = Planner(settings).plan(models)
    if as_json:
        report.JsonLines()(Event("plan", None, plan.to_json()))
    else:
        with suppress(OSError):
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
    for stream in (sys.stdout, sys.stderr):
        forgive(stream)
    try:
        os.execvpe(command[0], list(command), dict(environ))  # noqa: S606 - becoming it is the point; no shell is wanted
    except OSError as error:
        sys.stderr.write(f"{command[0]} cannot be run: {error.strerror}\n")
        return CANNOT_RUN if error.errno == errno.EACCES else NO_SUCH_COMMAND
