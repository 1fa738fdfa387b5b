"""Looks at what a machine stands on: the API with its token, the GPU, and its models' way here."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import requests

from app.doctor.findings import Finding, Part, Patient, broken, fine, skipped, warning
from app.reach import why_not
from provisioning.disk import gigabytes
from provisioning.plan import Planner

ANSWER_SECONDS = 5.0
LOOK_SECONDS = 120.0
"""Bringing torch into memory takes a slow disk a minute."""

PROBE = "import torch; print(torch.__version__, torch.version.cuda or '-', torch.cuda.is_available(), sep='|')"
CUDA_BUILD = "install torch's CUDA build: https://pytorch.org/get-started/locally"


def api(patient: Patient) -> Iterator[Finding]:
    """Ask the API for what a machine asks it for, with this machine's token."""
    url = patient.fleet_url
    try:
        health = requests.get(f"{url}/ready", timeout=ANSWER_SECONDS)
        told = json.loads(health.text)
        parts = told["parts"]
    except requests.RequestException as exc:
        start = "start the server (`imagefleet up`), or " if Part.SERVER in patient.parts else ""
        yield broken(f"the API does not answer at {url}: {why_not(exc)}", f"{start}correct FLEET_URL")
        return
    except (ValueError, KeyError, TypeError):
        yield broken(f"what answers at {url} is no imagefleet", "correct FLEET_URL")
        return
    down = [f"{name}: {state}" for name, state in parts.items() if state != "ok"]
    if down:
        yield warning(f"the API answers at {url}, and is {told['status']}: {'; '.join(down)}", "mend what it names")
    else:
        yield fine(f"the API answers at {url}, and all its parts are well")
    if Part.MACHINE in patient.parts:
        yield from _token(url, patient.machine_token)


def _token(url: str, token: str) -> Iterator[Finding]:
    # Nobody's picture: whoever is let in is told that it is not there.
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        status = requests.get(
            f"{url}/machines/v1/inputs/{'0' * 64}", headers=headers, timeout=ANSWER_SECONDS
        ).status_code
    except requests.RequestException as exc:
        yield broken(f"the API stopped answering: {why_not(exc)}", "ask again")
        return
    if status in {401, 403, 429}:
        given = (
            "MACHINE_TOKEN is refused" if token else "the API asks machines for a token, and MACHINE_TOKEN is not set"
        )
        yield broken(f"{given} (status {status})", "set MACHINE_TOKEN to the server's")
    else:
        yield fine("the API lets this machine in")


@dataclass(frozen=True, slots=True)
class Gpu:
    """What the driver's own tool and torch say of the GPU."""

    smi: tuple[int, str] | None
    """Exit status and words of nvidia-smi; None: there is no such program."""
    torch: str | None
    """Its version, that of its CUDA and whether it reaches a GPU, with | between them; None: it cannot be imported."""


def gpu(patient: Patient) -> Iterator[Finding]:
    """Look whether the driver, torch and the settings agree about a GPU."""
    settings = patient.settings
    if settings.driver != "diffusers":
        yield skipped(f"DRIVER is {settings.driver}: nothing is drawn with this computer's GPU")
    else:
        yield from judged(_ask(patient.environ), settings.device)


def _ask(environ: Mapping[str, str]) -> Gpu:
    program = shutil.which("nvidia-smi", path=environ.get("PATH"))
    smi = None
    if program:
        query = "--query-gpu=name,driver_version,memory.total,memory.used"
        smi = _run([program, query, "--format=csv,noheader"], environ)
    status, told = _run([sys.executable, "-c", PROBE], environ)
    return Gpu(smi, told if status == 0 else None)


def _run(command: list[str], environ: Mapping[str, str]) -> tuple[int, str]:
    try:
        ended = subprocess.run(
            command, env=dict(environ), capture_output=True, text=True, check=False, timeout=LOOK_SECONDS
        )
    except subprocess.TimeoutExpired:
        return 124, f"{command[0]} did not answer in {LOOK_SECONDS:.0f} s"
    return ended.returncode, (ended.stdout.strip() or ended.stderr.strip())


def judged(found: Gpu, device: str) -> Iterator[Finding]:
    """Judge what was found by what the settings want of it."""
    has_gpu = found.smi is not None and found.smi[0] == 0
    if found.torch is None:
        yield broken(
            "torch cannot be imported: nothing can be drawn", "pip install 'imagefleet[machine]' -c constraints.txt"
        )
        return
    version, cuda, reaches = found.torch.splitlines()[-1].split("|")
    if found.smi is not None and not has_gpu:
        mismatch = "mismatch" in found.smi[1].lower()
        yield broken(
            f"nvidia-smi fails: {found.smi[1].splitlines()[0] if found.smi[1] else f'status {found.smi[0]}'}",
            "the kernel module is not of the version of the driver's libraries: restart the computer"
            if mismatch
            else "install the NVIDIA driver anew, or in a container: start it with the NVIDIA device request",
        )
    elif reaches == "True":
        yield fine(f"torch {version} (CUDA {cuda}) reaches the GPU{f': {found.smi[1]}' if found.smi else ''}")
    elif has_gpu and cuda == "-":
        judge = warning if device == "cpu" else broken
        yield judge(
            f"there is a GPU ({found.smi[1] if found.smi else ''}), and torch {version} is built without CUDA",
            CUDA_BUILD,
        )
    elif has_gpu:
        yield broken(
            f"torch {version} wants CUDA {cuda} and does not reach the GPU ({found.smi[1] if found.smi else ''})",
            "the driver may be too old for it: `nvidia-smi` names the newest CUDA it knows; update the driver",
        )
    elif device == "cuda":
        yield broken("DEVICE is cuda, and there is no NVIDIA driver here", "install it, or set DEVICE=cpu")
    else:
        yield fine(f"no GPU: torch {version} draws on the processor")


def plan(patient: Patient) -> Iterator[Finding]:
    """Let provisioning say what the models still need: the catalogue, hosts, tokens, and room on the disk."""
    settings = patient.settings
    if not settings.machine_models_needed:
        yield skipped("MACHINE_MODELS_NEEDED is not set")
        return
    downloads = replace(
        settings.downloads,
        models_dir=settings.models_dir,
        fleet_url=patient.fleet_url,
        machine_token=patient.machine_token or None,
    )
    made = Planner(downloads).plan(settings.machine_models_needed)
    if made.trouble is not None:
        yield broken(f"the catalogue cannot be asked: {made.trouble}", "start the server, or correct FLEET_URL")
    failing = [line for line in made.lines if line.error is not None and line.error is not made.trouble]
    for line in failing:
        yield broken(
            f"{line.model_id} would not come: {line.error}", "do what it says, and see `imagefleet provision --plan`"
        )
    if made.trouble is None and not failing:
        rest = f"{gigabytes(made.missing)} are still to come, and " if made.missing else "everything is here, and "
        yield fine(f"{', '.join(sorted(made.works))}: {rest}{gigabytes(made.free)} are free in {settings.models_dir}")
