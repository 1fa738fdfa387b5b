"""All looks, one after another: none of them can keep the others from being taken."""

import logging
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path

from app import runfile
from app.doctor.findings import Finding, Level, Look, Part, Patient, broken
from app.parse import SettingsError
from app.settings import Settings, is_loopback, merged

log = logging.getLogger(__name__)

SERVERS = frozenset({"DATABASE_URL", "API_TOKENS", "TOKENS_FILE", "METRICS_TOKEN", "SECRET_KEY"})
"""What a server is told and a machine is not."""

SERVER, MACHINE = frozenset({Part.SERVER}), frozenset({Part.MACHINE})

LOOKS: Mapping[str, tuple[str, frozenset[Part]]] = {
    "python": ("computer:python", SERVER | MACHINE),
    "packages": ("computer:packages", SERVER | MACHINE),
    "data folder": ("computer:data_folder", SERVER | MACHINE),
    "tokens": ("access:access", SERVER | MACHINE),
    "broker": ("broker:broker", SERVER | MACHINE),
    "database": ("store:db", SERVER),
    "pictures": ("store:storage", SERVER),
    "ports": ("computer:ports", SERVER),
    "API": ("machine:api", SERVER | MACHINE),
    "heartbeats": ("store:beats", SERVER),
    "control worker": ("broker:workers", SERVER),
    "Flower": ("broker:flower", SERVER),
    "clocks": ("clocks:clocks", SERVER | MACHINE),
    "GPU": ("machine:gpu", MACHINE),
    "models": ("machine:plan", MACHINE),
}
"""What is looked at, by what, and on which computers; imported when it is needed: a machine has no database library."""


def examine(
    environ: Mapping[str, str],
    parts: frozenset[Part] = frozenset(),
    looks: Mapping[str, tuple[str, frozenset[Part]]] = LOOKS,
) -> Iterator[tuple[str, Finding]]:
    """Look at everything; without parts, at those that the settings say run here."""
    texts = merged(environ, Path.cwd())
    try:
        settings = Settings.load(environ)
    except SettingsError as exc:
        yield "settings", broken(str(exc), "correct it where it is set: the environment, .env or config.yaml")
        return
    running = runfile.find(settings)
    patient = Patient(settings, texts, parts or _parts_of(settings, texts, is_running=running is not None), running)
    for name, (place, where) in looks.items():
        if patient.parts & where:
            yield from ((name, finding) for finding in _taken(name, place, patient))


def _parts_of(settings: Settings, texts: Mapping[str, str], *, is_running: bool) -> frozenset[Part]:
    """Guess what runs here; all that is no machine alone has a server.

    A machine names an API elsewhere, or reaches it through a tunnel: then it names a broker, and nothing that only a
    server is told.
    """
    host = settings.fleet_url.partition("://")[2].partition("/")[0].rpartition(":")[0] or settings.fleet_url
    is_far = (
        "FLEET_URL" in texts and not is_loopback(host.strip("[]")) and "DATABASE_URL" not in texts and not is_running
    )
    is_told_little = {"BROKER_URL", "MACHINE_TOKEN"} <= texts.keys() and not SERVERS & texts.keys()
    has_database = (settings.data_dir / "db" / "imagefleet.db").exists()
    if is_far or (is_told_little and settings.machine_models_needed and not is_running and not has_database):
        return MACHINE
    return SERVER | MACHINE if settings.machine_models_needed or is_running else SERVER


def _taken(name: str, place: str, patient: Patient) -> Iterator[Finding]:
    module, _, function = place.partition(":")
    try:
        look: Look = getattr(import_module(f"app.doctor.{module}"), function)
        yield from look(patient)
    except ImportError as exc:
        yield broken(f"{name}: {exc}", "install what is missing: see the finding on packages")
    except Exception as exc:  # the outermost edge: the other looks are worth having all the same
        log.exception("looking at %s failed", name)
        yield broken(f"looking at it failed: {type(exc).__name__}: {exc}", "tell us, with what --json prints")


def worst(findings: list[Finding]) -> Level:
    """Return the worst level there is."""
    levels = list(Level)
    return max((finding.level for finding in findings), key=levels.index, default=Level.OK)
