"""Looks at the computer itself: Python, packages, the data folder, ports."""

import platform
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

import requests
from packaging.requirements import Requirement

from app import tracing
from app.doctor.findings import Finding, Part, Patient, broken, fine, skipped, warning

OLDEST_PYTHON = (3, 11)
CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"
"""The versions that were tested together; there in a checkout, and not where the package was installed from a wheel."""

LEAST_FREE = 200 * 10**6
LITTLE_FREE = 2 * 10**9
ANSWER_SECONDS = 3.0


def python(_: Patient) -> Iterator[Finding]:
    """Look at the interpreter."""
    found = f"Python {platform.python_version()}, {platform.machine()}, {sys.executable}"
    if sys.version_info < OLDEST_PYTHON:
        yield broken(found, "install Python 3.11 or newer, and make the environment anew with it")
    elif sys.maxsize < 2**32:
        yield broken(f"{found}: of 32 bits", "install a Python of 64 bits: models are larger than it can address")
    else:
        yield fine(found)


def packages(patient: Patient) -> Iterator[Finding]:
    """Hold what is installed against what this version needs, and against the versions that it was tested with."""
    wanted = {"server"} if Part.SERVER in patient.parts else set()
    if Part.MACHINE in patient.parts:
        wanted.add("machine" if patient.settings.driver == "diffusers" else "broker")
    if Part.SERVER in patient.parts and not patient.broker_url:
        wanted.add("embedded")
    if any(patient.environ.get(name) for name in tracing.ENDPOINTS):
        wanted.add("otel")
    yield from held_against(metadata.requires("imagefleet") or [], wanted, _tested())


def held_against(needs: list[str], extras: set[str], tested: Mapping[str, str]) -> Iterator[Finding]:
    """Hold what is installed against requirements, those of some extras included, and against tested versions."""
    known = [Requirement(need) for need in needs]
    wanted = _with_their_own(known, extras)
    missing, wrong, untested = [], [], []
    for need in known:
        if need.name == "imagefleet" or not any(_applies(need, extra) for extra in ("", *wanted)):
            continue
        try:
            version = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            missing.append(need.name)
            continue
        if version not in need.specifier:
            wrong.append(f"{need.name} {version} (needs {need.specifier})")
        elif (pinned := tested.get(_plain(need.name))) and pinned != version.partition("+")[0]:
            untested.append(f"{need.name} {version} (tested with {pinned})")
    install = f"pip install 'imagefleet[{','.join(sorted(extras)) or 'server'}]' -c constraints.txt"
    if missing:
        yield broken(f"not installed: {', '.join(sorted(set(missing)))}", install)
    if wrong:
        yield broken(f"of a version that does not fit: {', '.join(sorted(set(wrong)))}", install)
    if untested:
        yield warning(f"never tested together: {', '.join(sorted(set(untested)))}", install)
    if not missing and not wrong and not untested:
        yield fine(f"all that {', '.join(sorted(extras)) or 'the base'} needs is here, in fitting versions")


def _applies(need: Requirement, extra: str) -> bool:
    return need.marker is None or need.marker.evaluate({"extra": extra})


def _with_their_own(known: list[Requirement], extras: set[str]) -> set[str]:
    """Add the extras that extras take along: `server` brings `broker`."""
    wanted, before = set(extras), set[str]()
    while wanted != before:
        before = set(wanted)
        ours = [need for need in known if need.name == "imagefleet" and any(_applies(need, extra) for extra in wanted)]
        wanted |= {extra for need in ours for extra in need.extras}
    return wanted


def _tested() -> dict[str, str]:
    if not CONSTRAINTS.exists():
        return {}
    lines = re.findall(r"^([\w.-]+)(?:\[\w+\])?==([^\s;]+)", CONSTRAINTS.read_text(encoding="utf-8"), re.MULTILINE)
    return {_plain(name): version for name, version in lines}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def data_folder(patient: Patient) -> Iterator[Finding]:
    """Write to the data folder, read it back, and look how much room there is."""
    folder = patient.settings.data_dir
    yield from writable(folder, "DATA_DIR")
    yield from room(folder, "DATA_DIR")


def writable(folder: Path, name: str) -> Iterator[Finding]:
    """Write a file into a folder, read it, and delete it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"imagefleet")
            file.flush()
            file.seek(0)
            came_back = file.read() == b"imagefleet"
    except OSError as exc:
        yield broken(
            f"{name} {folder} cannot be written to: {exc.strerror}",
            f"give this user the folder (chown), or set {name} to another one",
        )
        return
    if came_back:
        yield fine(f"{name} {folder} takes files and gives them back")
    else:
        yield broken(f"{name} {folder} does not give back what was written", "look at the disk: dmesg, smartctl")


def room(folder: Path, name: str) -> Iterator[Finding]:
    """Look how much room there is."""
    there = next(each for each in (folder, *folder.parents) if each.exists())
    free = shutil.disk_usage(there).free
    told = f"{free / 1e9:.1f} GB are free in {name} {folder}"
    if free < LEAST_FREE:
        yield broken(told, "delete something, set KEEP_JOBS_DAYS and its like, or move it to a larger disk")
    elif free < LITTLE_FREE:
        yield warning(told, "set KEEP_JOBS_DAYS and its like, or move it to a larger disk")
    else:
        yield fine(told)


def ports(patient: Patient) -> Iterator[Finding]:
    """Look who listens where the server does, or would."""
    settings = patient.settings
    yield from _port(settings.host, settings.port, "PORT")
    if settings.a1111_port:
        yield from _port(settings.host, settings.a1111_port, "A1111_PORT")
    else:
        yield skipped("A1111_PORT is 0: there is no second port")


def _port(host: str, port: int, name: str) -> Iterator[Finding]:
    address = "127.0.0.1" if host in {"0.0.0.0", "::", ""} else host  # noqa: S104  # it is compared
    try:
        answer = requests.get(f"http://{address}:{port}/health", timeout=ANSWER_SECONDS)
        is_ours = answer.ok and answer.json().get("status") == "ok"
    except requests.ConnectionError:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as exc:
                yield broken(
                    f"{name} {port} of {host} cannot be had: {exc.strerror}", f"stop what has it, or set {name}"
                )
                return
        yield fine(f"{name} {port} of {host} is free")
        return
    except (requests.RequestException, ValueError):
        is_ours = False
    if is_ours:
        yield fine(f"an imagefleet server answers at {name} {port}")
    else:
        yield broken(f"another program has {name} {port} of {host}", f"stop it, or set {name} to another one")
