"""`imagefleet up`: the whole fleet on one computer, ready line by line, stopped by Ctrl-C."""

import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.request import urlopen

from app import catalogue, database, runfile, tokens
from app.bootstrap import make_fleet
from app.client import ApiClient, ApiError
from app.embedded import plan_broker
from app.first_look import DEMO_MODEL, FirstLook, live_machines
from app.parse import SettingsError
from app.processes import Console, Household, Part, PartFailed, stopping_on_signals
from app.settings import Settings

START_SECONDS = 600.0
"""How long a part may take to start: a slow computer needs some of it. One that ends instead is not waited for."""

MACHINE_GOODBYE_SECONDS = 20.0
"""What a machine gets beyond DRAIN_SECONDS: a little more than it gives its own workers."""

OWN_NAME = "imagefleet-up"
"""Of the token that this program looks at its own server with, where it knows no other in the clear."""

LOOK_SECONDS = 0.5
FLOWER_PORT = "5555"
FLOWER_TASKS = 10_000
"""How many it remembers; it would take 100,000, and 4 KB of memory for each."""
FLOWER_PREFIX = "flower"
"""The path it lies behind, here as in a fleet."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the command line asked for beside the settings."""

    flower: bool = False
    first_picture: bool = False
    machine: bool = True
    a1111_port: bool = False
    """The second port was asked for: where it cannot be had, that is an error."""


def run(settings: Settings, environ: Mapping[str, str], wishes: Wishes) -> int:
    """Start everything and serve until told to stop; returns the exit status."""
    console = Console(form=settings.log_format)
    household = Household(console.say)
    with ExitStack() as stack:
        stack.enter_context(runfile.only_one(settings.data_dir))
        stack.enter_context(stopping_on_signals(household))
        stack.callback(household.stop)
        try:
            _Start(settings, environ, wishes, household, console.say, stack).run()
        except PartFailed as exc:
            console.say("imagefleet", f"stopping: {exc}")
            return exc.status
        except KeyboardInterrupt:
            pass
        console.say("imagefleet", "stopping")
    console.say("imagefleet", "stopped; nothing is lost, `imagefleet up` goes on where this ended")
    return 0


@dataclass(slots=True)
class _Start:
    settings: Settings
    environ: Mapping[str, str]
    wishes: Wishes
    household: Household
    say: Callable[[str, str], None]
    stack: ExitStack

    def run(self) -> None:
        self._complete_settings()
        _check_port_is_free(self.settings.host, self.settings.port, "--port")
        self._settle_a1111_port()
        self._start_broker()
        self._prepare_database()
        self._start_web()
        if self.settings.a1111_port:
            self._start_a1111()
        self._start_control()
        if self.wishes.machine:
            self._start_machine()
        if self.wishes.flower:
            self._start_flower()
        self._serve()

    def _complete_settings(self) -> None:
        """Give the parts what they need to find and to trust each other."""
        given = self.settings
        address = "127.0.0.1" if given.host in {"0.0.0.0", "::", ""} else given.host  # noqa: S104  # it is compared
        self.settings = replace(
            given,
            fleet_url=f"http://{address}:{given.port}",
            flower_url=given.flower_url or (self._flower_url() if self.wishes.flower else ""),
            machine_token=given.machine_token or secrets.token_urlsafe(24),
            api_tokens=given.api_tokens + self._own_token(),
            # One that only asks another server offers what that one has.
            machine_models_needed=given.machine_models_needed
            or (() if given.driver == "automatic1111" else (DEMO_MODEL,)),
        )

    def _own_token(self) -> tuple[str, ...]:
        """Make a token to look at the machines with, where tokens are asked for and none is known in the clear."""
        known = self.settings
        if tokens.plain(known.api_tokens) or not known.keyring().of(*tokens.CLIENTS):
            return ()
        return (f"{OWN_NAME}:operator:{secrets.token_urlsafe(24)}",)

    def _part(self, name: str, *command: str, stop_seconds: float = 15.0, needed: int = 1, **more: str) -> Part:
        known = self.settings
        environ = {
            **self.environ,
            "DATA_DIR": str(known.data_dir),
            "MODELS_DIR": str(known.models_dir),
            "DATABASE_URL": known.database_url,
            "BROKER_URL": known.broker_url,
            "LIVE_URL": known.live_url,
            "FLEET_URL": known.fleet_url,
            "HOST": known.host,
            "PORT": str(known.port),
            "A1111_PORT": str(known.a1111_port),
            "FLOWER_URL": known.flower_url,
            "MACHINE_TOKEN": known.machine_token,
            "API_TOKENS": ",".join(known.api_tokens),
            "MACHINE_MODELS_NEEDED": ",".join(known.machine_models_needed),
            "PYTHONUNBUFFERED": "1",
            **more,
        }
        return Part(name, [sys.executable, "-m", *command], environ, stop_seconds=stop_seconds, needed_by_others=needed)

    def _start_broker(self) -> None:
        if self.settings.broker_url:
            self._say_ready("broker", "the one at BROKER_URL", 0.0)
            return
        broker = plan_broker(self.settings.data_dir / "db" / "broker")
        self.settings = replace(self.settings, broker_url=broker.url, live_url=self.settings.live_url or broker.url)
        self.household.start(broker.part)
        took = self.household.wait_until("broker", broker.is_ready, START_SECONDS)
        self._say_ready("broker", broker.program, took)

    def _prepare_database(self) -> None:
        began, fleet = time.monotonic(), make_fleet(self.settings)
        revision = database.upgrade(fleet.engine)
        known = catalogue.load(fleet, self.environ, Path.cwd())
        fleet.close()
        about = f"revision {revision}, {len(known)} models built in or configured"
        self._say_ready("database", about, time.monotonic() - began)

    def _start_web(self) -> None:
        self.household.start(self._part("web", "gunicorn", "-c", "python:app.server", "app.wsgi:application"))
        took = self.household.wait_until("web", lambda: _answers(f"{self.settings.fleet_url}/health"), START_SECONDS)
        self._say_ready("web", self.settings.fleet_url, took)
        known = self.settings
        running = runfile.Running(os.getpid(), known.fleet_url, known.broker_url, known.machine_token)
        self.stack.enter_context(runfile.published(known.data_dir, running))

    def _settle_a1111_port(self) -> None:
        """Go on without the second port where it is taken: a real Automatic1111 may run there."""
        known = self.settings
        if not known.a1111_port:
            return
        try:
            _check_port_is_free(known.host, known.a1111_port, "--a1111-port", ours=known.port)
        except SettingsError as exc:
            self._without_a1111(exc)

    def _start_a1111(self) -> None:
        known = self.settings
        url = known.fleet_url.rpartition(":")[0] + f":{known.a1111_port}"
        self.household.start(self._part("a1111", "gunicorn", "-c", "python:app.a1111_server", "app.wsgi:a1111"))
        try:
            took = self.household.wait_until("a1111", lambda: _answers(f"{url}/health"), START_SECONDS)
        except PartFailed as exc:  # somebody took the port since
            self._without_a1111(exc)
        else:
            self._say_ready("a1111", f"{url} for Automatic1111 clients", took)

    def _without_a1111(self, problem: Exception) -> None:
        if self.wishes.a1111_port:
            raise problem
        self.household.drop("a1111")
        self.settings = replace(self.settings, a1111_port=0)
        self.say("a1111", f"off      {problem}; /a1111 on the main port is the same")

    def _start_control(self) -> None:
        heartbeat = self.settings.data_dir / "db" / "control-ready"
        heartbeat.unlink(missing_ok=True)
        self.household.start(
            self._part(
                "control",
                "celery",
                "--quiet",
                "--app=tasks.control.app",
                "worker",
                "--queues=control,webhooks",
                "--hostname=control@%h",
                "--without-gossip",
                "--without-mingle",
                CONTROL_READY_FILE=str(heartbeat),
            ),
        )
        took = self.household.wait_until("control", heartbeat.exists, START_SECONDS)
        heartbeat.unlink(missing_ok=True)
        # A part of its own: inside of the worker nobody would start it anew, and it would outlive a killed one.
        self.household.start(
            self._part(
                "beat",
                "celery",
                "--quiet",
                "--app=tasks.control.app",
                "beat",
                "--scheduler=celery.beat:Scheduler",  # in memory: the schedule is in the code
                "--pidfile=",
            ),
        )
        self._say_ready("control", "sweeping every 2 s", took)

    def _start_machine(self) -> None:
        stop_seconds = self.settings.drain_seconds + MACHINE_GOODBYE_SECONDS
        self.household.start(self._part("machine", "app.cli", "machine", stop_seconds=stop_seconds, needed=0))
        api, known = self._api(), list[str]()

        def has_come() -> bool:
            try:
                known.extend(machine["machine_id"] for machine in live_machines(api))
            except ApiError:  # the web part is busy, or it has ended
                self.household.tend()
            return bool(known)

        took = self.household.wait_until("machine", has_come, START_SECONDS)
        self._say_ready("machine", ", ".join(known), took)

    def _flower_url(self) -> str:
        return f"http://127.0.0.1:{self.environ.get('FLOWER_PORT', FLOWER_PORT)}/{FLOWER_PREFIX}"

    def _start_flower(self) -> None:
        url = self._flower_url()
        port = url.rpartition(":")[2].partition("/")[0]
        # Without a password its API answers on loopback only; Flower itself reads FLOWER_BASIC_AUTH.
        is_open = "false" if self.environ.get("FLOWER_BASIC_AUTH") else "true"
        address = ("--address=127.0.0.1", f"--port={port}", f"--url-prefix={FLOWER_PREFIX}")
        options = (*address, f"--max-tasks={FLOWER_TASKS}")
        self.household.start(
            self._part("flower", "celery", "--app=app.flower", "flower", *options, FLOWER_UNAUTHENTICATED_API=is_open)
        )
        took = self.household.wait_until("flower", lambda: _answers(f"{url}/healthcheck"), START_SECONDS)
        self._say_ready("flower", url, took)

    def _serve(self) -> None:
        """Tell how the models come along, draw the first picture, and look after the parts until told to stop."""
        look = FirstLook(self._api(), self.say, self.household.stopping)
        picture_due = self.wishes.first_picture
        self.say("imagefleet", f"open {self.settings.fleet_url}/ in a browser; Ctrl-C stops")
        while not self.household.stopping.wait(LOOK_SECONDS):
            self.household.tend()
            try:
                ready = look.tell_models()
                if picture_due and ready:
                    picture_due = False
                    look.draw_first(ready, self.settings.data_dir / "first-picture.png")
            except ApiError as exc:
                self.say("imagefleet", f"the web part does not answer at the moment: {exc}")

    def _api(self) -> ApiClient:
        known = self.settings
        return ApiClient(known.fleet_url, tokens.plain(known.api_tokens))

    def _say_ready(self, name: str, about: str, seconds: float) -> None:
        self.say(name, f"ready    {about} ({seconds:.1f} s)")


def _check_port_is_free(host: str, port: int, option: str, ours: int | None = None) -> None:
    """Raise SettingsError when another program listens there: its answers would be taken for ours."""
    if port == ours:
        raise SettingsError(f"port {port} is the main one already; choose another with {option}")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            problem = f"port {port} of {host} cannot be had ({exc.strerror}); choose another with {option}"
            raise SettingsError(problem) from exc


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=10) as response:  # noqa: S310  # an address of our own
            return bool(response.status == 200)
    except OSError:
        return False
