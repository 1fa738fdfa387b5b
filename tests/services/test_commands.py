"""Each command that README and docs show is run here, against a real fleet, or it is said where else it is run.

A command that is new on a page is run with the others of that page, in their order: `curl` against the server that runs
here, `imagefleet` beside it. One that cannot be goes into ELSEWHERE.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.builders import a_picture
from tests.support.fences import PAGES, commands
from tests.support.processes import ROOT, wait_until
from tests.support.servers import Up, environ_of
from tests.support.system import ARTIFACT

MODEL = "demo-shapes"

SERVES = "it serves until Ctrl-C"
ALONE = "it asks other hosts than this one"
ENDLESS = "the stream ends after ten minutes"
STOPPED = "the server must be stopped"
AS_SHOWN = "tests/services/test_backup.py runs it as it is shown, with PostgreSQL"

ELSEWHERE = {
    "make run": f"tests/services/test_commands.py starts what it starts, with the fake driver; {SERVES}",
    "make test": "tests/services/test_commands.py is a part of it",
    "MACHINE_MODELS_NEEDED=demo-shapes,nonexistent .venv/bin/imagefleet machine": (
        f"tests/support/system.py starts machines so, tests/services/test_end_to_end.py one with such models; {SERVES}"
    ),
    "FLEET_URL=http://fleet.example.org:8000 BROKER_URL=redis://:PASSWORD@fleet.example.org:6379/0 "
    "MACHINE_TOKEN=… MACHINE_MODELS_NEEDED=flux-dev,sdxl-base .venv/bin/imagefleet machine": (
        f"tests/support/system.py starts machines by these variables; {ALONE}"
    ),
    "DRIVER=automatic1111 A1111_BASE_URL=http://127.0.0.1:7861 .venv/bin/imagefleet machine": (
        f"tests/services/test_remote_a1111.py starts such a machine; {SERVES}"
    ),
    "DRIVER=automatic1111 A1111_BASE_URL=http://127.0.0.1:7861 A1111_AUTH=fleet:PASSWORD "
    "FLEET_URL=http://fleet.example.org:8000 BROKER_URL=redis://… MACHINE_TOKEN=… imagefleet machine": (
        f"tests/services/test_remote_a1111.py starts such a machine; {SERVES}"
    ),
    "MACHINE_MODELS_NEEDED=flux-dev MODELS_DIR=ComfyUI/models "
    ".venv/bin/imagefleet provision -- python ComfyUI/main.py": (
        f"tests/provisioning/test_command.py runs a program behind it; {ALONE}"
    ),
    "MACHINE_MODELS_NEEDED=flux-dev,sdxl-base FLEET_URL=https://fleet.example MODELS_DIR=/models "
    "python -m provisioning": (f"tests/provisioning/test_command.py runs it by these variables; {ALONE}"),
    "python -m provisioning --watch": f"tests/provisioning/test_watching.py; {SERVES}",
    "MODELS_DIR=/ComfyUI/models python -m provisioning flux-dev -- python /ComfyUI/main.py": (
        f"tests/provisioning/test_command.py runs a program behind it; {ALONE}"
    ),
    "cp .env.example .env": "tests/deploy/test_compose.py holds the file against compose.yaml",
    "curl -sN localhost:8000/v1/events": f"tests/api/test_feed.py and tests/web/test_events.py; {ENDLESS}",
    "curl -sN localhost:8000/v1/events -H 'Last-Event-ID: 1763712000123456'": f"tests/api/test_feed.py; {ENDLESS}",
    "docker compose up --build": "`make prove-images` builds each image and brings the file up; tests/deploy reads it",
    "imagefleet machines forget gpu-7": "tests/api/test_machine_commands.py; the machine here checks in",
    "imagefleet restore /backups/imagefleet.tar": f"tests/services/test_backup.py; {STOPPED}",
    'pg_dump --format=custom --file=imagefleet.dump "$LIVE"': AS_SHOWN,
    'tar --create --file=images.tar --directory="$DATA_DIR" images': AS_SHOWN,
    'pg_restore --no-owner --exit-on-error --single-transaction --dbname="$NEW" imagefleet.dump': AS_SHOWN,
    'mkdir -p "$DATA_DIR"': AS_SHOWN,
    'tar --extract --file=images.tar --directory="$DATA_DIR"': AS_SHOWN,
    'DATABASE_URL="${NEW/postgresql:/postgresql+psycopg:}" imagefleet db upgrade': AS_SHOWN,
    "celery --app=app.flower flower --port=5555 --url-prefix=flower": f"tests/services/test_observability.py; {SERVES}",
}
"""Commands, without comments and with single blanks: where they are run or held against the code, and why not here."""

IN_STEAD = {
    "https://huggingface.co/OWNER/REPO/resolve/main/sd_xl_base_1.0.safetensors": "{url}/artifacts/demo-shapes.dduf",
    "localhost:8000": "localhost:{port}",
    "127.0.0.1:8000": "127.0.0.1:{port}",
    "localhost:7860": "localhost:{a1111}",
    ".venv/bin/imagefleet ": "imagefleet ",
    "/backups/": "{folder}/",
    "gpu-7": "{machine}",
    "flux-dev": MODEL,
}
"""What commands name, and what stands for it here."""

REFUSED = {
    '"remove_background": true': 422,  # as the page says: once the catalogue has a cut-out
    "-X DELETE localhost:8000/v1/machines/gpu-7": 409,  # as the page says: while it checks in
}
"""What is told with another status here, by a part of the command."""

STAND_INS = {
    "sdxl-base": {"base": "sdxl"},
    "add-detail-xl": {"kind": "lora", "base": "sdxl"},
    "fur": {"kind": "lora", "base": "sdxl"},
    "bad-hands": {"kind": "embedding", "base": "sdxl"},
    "sdxl-vae-fp16": {"kind": "vae", "base": "sdxl"},
    "style": {"kind": "lora", "base": "sd15"},
}
"""Models that the pages name: this catalogue has them, with a small file of another model's."""

RUN = re.compile(r"([A-Z_]+=\S* )*(curl|imagefleet|python -m provisioning|python3?) ")

PLACES = re.compile(r"\b(JOB_ID|IMAGE_ID|INPUT_ID|ENGINE_ID|UUID)\b")
"""What a person puts in: each command that answers with one names it for those that follow."""

STATUS = "answered with "


class Person:
    """Pastes one command after the other into a shell, and puts in what the answers named."""

    def __init__(self, up: Up, folder: Path) -> None:
        self._up, self._folder = up, folder
        (machine,) = up.get("v1/machines")["machines"]
        known = {
            "url": up.url,
            "port": up.port,
            "a1111": up.a1111_port,
            "machine": machine["machine_id"],
            "folder": folder,
        }
        self._in_stead = {word: text.format(**known) for word, text in IN_STEAD.items()}
        self._names: dict[str, str] = {}
        (folder / "picture.png").write_bytes(a_picture())
        shim = folder / "curl"
        options = f"--fail-with-body --max-time 120 --write-out '%{{stderr}}{STATUS}%{{http_code}}'"
        shim.write_text(f'#!/bin/sh\nexec {shutil.which("curl")} {options} "$@"\n', encoding="utf-8")
        shim.chmod(0o755)

    def paste(self, command: str) -> None:
        """Run it, and see that it does what it should."""
        if "cancel" in command:
            self._order_what_nobody_draws()
        text = PLACES.sub(lambda found: self._put_in(found[1], command), command)
        for word, stand_in in self._in_stead.items():
            text = text.replace(word, stand_in)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=self._folder,
            env=self._environ(),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        refusals = [str(status) for part, status in REFUSED.items() if part in command]
        found = re.findall(rf"{STATUS}(\d+)", done.stderr)
        told = f"{text}\nended with {done.returncode}\n{done.stdout[:2000]}\n{done.stderr[-2000:]}"
        assert found == refusals if refusals else done.returncode == 0, told
        if not refusals:
            self._learn(done.stdout)
            self._let_it_happen(command)

    def _environ(self) -> dict[str, str]:
        path = os.pathsep.join([str(self._folder), str(Path(sys.executable).parent), os.environ["PATH"]])
        models = {"MODELS_DIR": str(self._folder / "models"), "MACHINE_MODELS_NEEDED": MODEL, "FLEET_URL": self._up.url}
        return {**environ_of(self._up.folder), "PATH": path, **models, "ALLOW_PRIVATE_ADDRESSES": "1"}

    def _put_in(self, name: str, command: str) -> str:
        assert name in self._names, f"no earlier command of this page answered with a {name}: {command}"
        return self._names[name]

    def _learn(self, said: str) -> None:
        """Note what an answer names, and wait for a job that was ordered."""
        try:
            answer = json.loads(said)
        except ValueError:
            return
        if not isinstance(answer, dict):
            return
        self._names |= {key.upper(): str(answer[key]) for key in ("input_id", "engine_id") if answer.get(key)}
        if job_id := answer.get("job_id") or answer.get("uuid"):
            self._names |= {"JOB_ID": job_id, "UUID": job_id}
            if self._up.get(f"v1/jobs/{job_id}")["model_id"] == MODEL:
                for image in self._up.ended(job_id)["images"]:
                    self._names["IMAGE_ID"] = image["image_id"]

    def _let_it_happen(self, command: str) -> None:
        """Wait for what a command only begins, and take back what would be in the way of the others."""
        if "/drain" in command:
            self._up.post(f"v1/machines/{self._in_stead['gpu-7']}/undrain", {})
        for word, state in (("/start", "Ready"), ("/stop", "Closed")):
            if f"ENGINE_ID{word}" in command:
                path = f"v1/engines/{self._names['ENGINE_ID']}"
                wait_until(lambda: self._up.get(path)["status"] == state, f"the engine is {state}")  # noqa: B023  # asked at once

    def _order_what_nobody_draws(self) -> None:
        job = self._up.post("v1/jobs", {"model_id": "sdxl-base", "prompt": "a red circle"})
        self._names |= {"JOB_ID": job["job_id"], "UUID": job["job_id"]}


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Start a fleet on this computer, whose machine draws at once, with every model that the pages name."""
    environ = {
        "DRIVER": "fake",
        "FAKE_STEP_SECONDS": "0",
        "MACHINE_MODELS_NEEDED": MODEL,
        "ALLOW_PRIVATE_ADDRESSES": "1",
        "CIVITAI_METADATA": "0",
    }
    found = Up(tmp_path_factory.mktemp("fleet") / "data", "--first-picture", environ=environ)
    try:
        found.wait_until_serving()
        for model_id, more in STAND_INS.items():
            found.post("v1/models", {"id": model_id, "name": f"{model_id}.safetensors", **ARTIFACT, **more})
        wait_until(lambda: found.holding(MODEL)["state"] == "ready", "the machine is ready")
        yield found
    finally:
        found.process.stop()


def plain(command: str) -> str:
    """Return a command in one line, without its comment."""
    lexer = shlex.shlex(command, posix=False, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters = True, "#"
    return " ".join(word for word in lexer if word != "\\")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_does_what_it_says(page: Path, up: Up, tmp_path: Path) -> None:
    person = Person(up, tmp_path)

    for command in commands(page):
        if plain(command) in ELSEWHERE:
            continue
        assert RUN.match(f"{plain(command)} "), (
            f"{page.name} shows a command that no test runs: {plain(command)!r}; "
            f"say in ELSEWHERE of {Path(__file__).name} which test runs it, or why none can"
        )
        person.paste(command)


def test_make_run_draws_a_first_picture_and_says_where_it_lies(up: Up) -> None:
    made = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "run"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout

    up.process.wait_for_line("first-picture.png")

    assert "imagefleet up --first-picture " in made.splitlines()[-1]  # as the fixture starts it
    (path,) = re.findall(r"^picture +ready +(\S+)", up.process.said(), re.MULTILINE)
    with Image.open(path) as picture:
        assert picture.format == "PNG"


def test_the_commands_of_the_readmes_table_that_look_and_change_do_so(up: Up, tmp_path: Path) -> None:
    person = Person(up, tmp_path)
    person.paste('curl -s localhost:8000/v1/jobs --json \'{"model_id": "demo-shapes", "prompt": "a red circle"}\'')

    for command in (
        "imagefleet jobs list",
        "imagefleet jobs show JOB_ID",
        "imagefleet jobs cancel JOB_ID",
        "imagefleet models add https://example.org/one.safetensors --id one --kind lora",
        "imagefleet models list",
        "imagefleet models show one",
        "imagefleet models rm one",
        "imagefleet db upgrade",
    ):
        person.paste(command)


def test_what_is_said_to_be_run_elsewhere_is_shown_somewhere_and_run_there() -> None:
    shown = {plain(command) for page in PAGES for command in commands(page)}

    assert set(ELSEWHERE) - shown == set()
    named = [path for reason in ELSEWHERE.values() for path in re.findall(r"\S+/\S+\.\w+", reason)]
    assert [path for path in named if not (ROOT / path.rstrip(";:,")).exists()] == []
