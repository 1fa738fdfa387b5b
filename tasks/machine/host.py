"""`imagefleet machine`: provisioning, and one worker per GPU, under one roof."""

import fcntl
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping

from app import logs
from app.parse import SettingsError
from app.processes import Console, Household, Part, PartFailed, stopping_on_signals
from app.settings import Settings
from tasks.machine.app import quiet_libraries
from tasks.machine.boot import STARTED_AT, start_of
from tasks.machine.health import Health, answering, pulse_path

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
MOST_MACHINES_PER_HOST = 64

SERVER_SECRETS = frozenset({"DATABASE_URL", "API_TOKENS", "TOKENS_FILE", "METRICS_TOKEN", "SECRET_KEY"})

GOODBYE_SECONDS = 15.0
"""What a worker gets beyond DRAIN_SECONDS to hand its job back, bring its pictures home and say goodbye."""


def run(settings: Settings, environ: Mapping[str, str]) -> int:
    """Provision and serve until told to stop; returns the exit status."""
    machine_id, lock = _take_id(settings)
    console = Console(width=12, form=settings.log_format, machine_id=machine_id)
    household = Household(console.say)
    is_remote = settings.driver == "automatic1111"
    if not settings.machine_models_needed and not is_remote:
        console.say("machine", "MACHINE_MODELS_NEEDED is not set: this machine will not draw anything")
    workers = _workers(settings, environ, machine_id)
    names = [part.environ["MACHINE_ID"] for part in workers]
    health = Health({name: pulse_path(settings.data_dir, name) for name in names})
    with stopping_on_signals(household), answering(health, settings.machine_health_host, settings.machine_health_port):
        try:
            if not is_remote:  # nothing of another server's models is to be brought here
                household.start(_provisioning(settings, environ))
            for part in workers:
                household.start(part)
            while not household.stopping.wait(LOOK_SECONDS):
                household.tend()
        except PartFailed as exc:
            console.say("machine", f"stopping: {exc}")
            return exc.status
        finally:
            household.stop()
            os.close(lock)
    return 0


def _take_id(settings: Settings) -> tuple[str, int]:
    """Find this machine's name; two of one name on one host would take each other's jobs away."""
    wanted = settings.machine_id or re.sub(r"[^A-Za-z0-9._-]+", "-", socket.gethostname()).strip("-.") or "machine"
    names = [wanted] + ([] if settings.machine_id else [f"{wanted}-{k}" for k in range(2, MOST_MACHINES_PER_HOST)])
    for name in names:
        folder = settings.data_dir / "spool" / name
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            continue
        return name, handle
    raise SettingsError(f"a machine called {wanted!r} already runs here: choose another MACHINE_ID")


def _environ(settings: Settings, environ: Mapping[str, str], **more: str) -> dict[str, str]:
    # What draws needs none of the server's secrets, whoever started this machine.
    inherited = {name: value for name, value in environ.items() if name not in SERVER_SECRETS}
    return {
        **inherited,
        "HOST": "127.0.0.1",
        "DATA_DIR": str(settings.data_dir),
        "MODELS_DIR": str(settings.models_dir),
        "BROKER_URL": settings.broker_url,
        "LIVE_URL": settings.live_url,
        "FLEET_URL": settings.fleet_url,
        "MACHINE_TOKEN": settings.machine_token,
        "MACHINE_MODELS_NEEDED": ",".join(settings.machine_models_needed),
        "HF_TOKEN": settings.hf_token,
        "CIVITAI_TOKEN": settings.civitai_token,
        "ALLOW_PRIVATE_ADDRESSES": "1" if settings.allow_private_addresses else "",
        "PYTHONUNBUFFERED": "1",
        STARTED_AT: str(start_of({})),
        **more,
    }


def _provisioning(settings: Settings, environ: Mapping[str, str]) -> Part:
    form = ["--json"] if settings.log_format == logs.JSON else []
    return Part("provision", [sys.executable, "-m", "provisioning", "--watch", *form], _environ(settings, environ))


def _workers(settings: Settings, environ: Mapping[str, str], machine_id: str) -> list[Part]:
    """Plan one worker per GPU, each seeing its own only; one where there is none, or where another server draws."""
    gpus = [] if settings.device == "cpu" or settings.driver == "automatic1111" else visible_gpus(environ)
    rows = [(machine_id, gpus)] if len(gpus) < 2 else [(f"{machine_id}-{k}", [gpu]) for k, gpu in enumerate(gpus)]
    parts = []
    for name, own in rows:
        more = {"MACHINE_ID": name} | ({"CUDA_VISIBLE_DEVICES": ",".join(own)} if own else {})
        known = quiet_libraries(_environ(settings, environ, **more))
        parts.append(
            Part(
                f"worker {name}" if len(rows) > 1 else "worker",
                [sys.executable, "-m", "tasks.machine"],
                known,
                stop_seconds=settings.drain_seconds + GOODBYE_SECONDS,
            )
        )
    return parts


def visible_gpus(environ: Mapping[str, str]) -> list[str]:
    """List this host's GPUs without importing torch: those of CUDA_VISIBLE_DEVICES, or what nvidia-smi knows."""
    if "CUDA_VISIBLE_DEVICES" in environ:
        return [gpu.strip() for gpu in environ["CUDA_VISIBLE_DEVICES"].split(",") if gpu.strip()]
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    found = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=30, check=False)
    return [str(k) for k, line in enumerate(found.stdout.splitlines()) if line.startswith("GPU ")]
