"""schemathesis before real processes: no dialect answers anything that its OpenAPI document does not say.

Every check of schemathesis is on. What is switched off somewhere stands in EXCEPTIONS, with its reason.
A long run with another seed each time: `make fuzz`.
"""

import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.api.application import DIALECTS
from tests.support.system import System, running_system

pytestmark = pytest.mark.timeout(1800)

LONG = os.environ.get("FUZZ") == "long"
SEED = secrets.randbelow(2**31) if LONG else 1
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "100")) if LONG else 2
"""Random cases for each route; deterministic ones (each field missing, too long, of another type) come on top."""

MODEL = "demo-shapes"
MACHINE_TOKEN, METRICS_TOKEN = "of-the-machines", "of-prometheus"

TOKENS = {dialect.name: f"of-{dialect.name}" for dialect in DIALECTS}
"""One token for each dialect: jobs take turns by token, so no dialect waits behind what another one has ordered."""

SMALL = {
    "MAX_STEPS": "2",
    "MAX_SIZE": "64",
    "MAX_IMAGES": "2",
    "MAX_PROMPT": "300",
    "MAX_UPLOAD_MB": "2",
    "WAIT_SECONDS": "10",
    "FAKE_STEP_SECONDS": "0.001",
    "MAX_QUEUED_PER_TOKEN": "100000",
    "AUTH_FAILURES_PER_MINUTE": "0",
}
"""Limits are settings, and stand in the documents: so orders are small ones. Wrong tokens are sent on purpose."""

NOT_OURS = "what is wrong with it is known only once it is looked at: a picture, an address, another row, an opaque id"
SEVERAL_FIELDS = "an order has rules over several fields, such as one address for its webhook, and JSON Schema has not"
ANY_NAME = "a path with a variable is there too, under which `{0}` would be a name like any other"
NOTHING_ORDERED = "an empty list orders nothing, so nobody looks at the Idempotency-Key"
LENIENT = "numbers are read as Automatic1111 reads them (pydantic 1): 2.5 steps are 2, and so are those of '2'"
TRUTHS = "0 and 1, and the words for them, pass for false and true"
NOTHING_THERE = "503 is the right answer where no machine has room"
NOT_POSSIBLE = "501 is the right answer to what this server cannot do"


@dataclass(frozen=True, slots=True)
class Exemption:
    """A check that does not hold for some routes, and why."""

    route: str
    """A method and a path."""
    check: str
    reason: str
    statuses: tuple[str, ...] = ()
    """Those that are right there; without any the check is off."""


EXCEPTIONS = [
    Exemption("POST /v1/jobs", "positive_data_acceptance", SEVERAL_FIELDS),
    Exemption("POST /v1/jobs/{job_id}/retry", "positive_data_acceptance", SEVERAL_FIELDS),
    Exemption("POST /v1/jobs/{job_id}/replay", "positive_data_acceptance", SEVERAL_FIELDS),
    Exemption("POST /generate", "positive_data_acceptance", SEVERAL_FIELDS),
    Exemption("POST /api/generate", "positive_data_acceptance", SEVERAL_FIELDS),
    Exemption("POST /sdapi/v1/txt2img", "positive_data_acceptance", SEVERAL_FIELDS),
    Exemption("POST /sdapi/v1/img2img", "positive_data_acceptance", NOT_OURS),
    Exemption("POST /a1111/sdapi/v1/txt2img", "positive_data_acceptance", SEVERAL_FIELDS),
    Exemption("POST /a1111/sdapi/v1/img2img", "positive_data_acceptance", NOT_OURS),
    Exemption("POST /a1111/sdapi/v1/extra-single-image", "positive_data_acceptance", NOT_OURS),
    Exemption("POST /a1111/sdapi/v1/extra-batch-images", "positive_data_acceptance", NOT_OURS),
    Exemption("POST /a1111/sdapi/v1/extra-batch-images", "negative_data_rejection", NOTHING_ORDERED),
    Exemption("POST /a1111/sdapi/v1/png-info", "positive_data_acceptance", NOT_OURS),
    Exemption("POST /a1111/sdapi/v1/options", "positive_data_acceptance", NOT_OURS),
    Exemption("POST /a1111/sdapi/v1/interrogate", "not_a_server_error", NOT_POSSIBLE, ("2xx", "4xx", "501")),
    Exemption("POST /a1111/controlnet/detect", "positive_data_acceptance", NOT_OURS),
    *(
        Exemption(f"POST {path}/{kind}2img", "negative_data_rejection", LENIENT)
        for path in ("/sdapi/v1", "/a1111/sdapi/v1")
        for kind in ("txt", "img")
    ),
    Exemption("POST /openai/v1/images/generations", "positive_data_acceptance", SEVERAL_FIELDS),
    Exemption("POST /openai/v1/images/edits", "positive_data_acceptance", NOT_OURS),
    Exemption("POST /openai/v1/images/variations", "positive_data_acceptance", NOT_OURS),
    Exemption("PATCH /v1/models/{model_id}", "positive_data_acceptance", SEVERAL_FIELDS),
    Exemption("PATCH /v1/images/{image_id}", "negative_data_rejection", TRUTHS),
    Exemption("POST /v1/inputs", "positive_data_acceptance", NOT_OURS),
    Exemption("POST /v1/models", "positive_data_acceptance", NOT_OURS),
    Exemption("POST /v1/engines", "positive_data_acceptance", NOT_OURS),
    *(
        Exemption(f"GET {path}", "positive_data_acceptance", NOT_OURS)
        for path in (
            *("/v1/jobs", "/v1/engines", "/v1/images", "/v1/machines", "/v1/models"),
            *("/sdapi/v1/jobs", "/sdapi/v1/models", "/sdapi/v1/sd-models", "/sdapi/v1/loras"),
        )
    ),
    Exemption("GET /v1/jobs/{job_id}/events", "positive_data_acceptance", NOT_OURS),
    Exemption("GET /v1/jobs/{job_id}/timeline", "positive_data_acceptance", NOT_OURS),
    Exemption("GET /v1/timeline", "positive_data_acceptance", NOT_OURS),
    Exemption("POST /machines/v1/models", "positive_data_acceptance", NOT_OURS),
    Exemption("POST /machines/v1/peers", "positive_data_acceptance", NOT_OURS),
    Exemption(
        "PUT /machines/v1/jobs/{job_id}/attempts/{number}/images/{position}", "positive_data_acceptance", NOT_OURS
    ),
    Exemption("POST /api/models/batch", "allow_header_conformance", ANY_NAME.format("batch")),
    Exemption("POST /v1/machines/plan", "allow_header_conformance", ANY_NAME.format("plan")),
    Exemption("POST /v1/engines/{engine_id}/start", "not_a_server_error", NOTHING_THERE, ("2xx", "4xx", "503")),
    Exemption("PATCH /v1/engines/{engine_id}/start", "not_a_server_error", NOTHING_THERE, ("2xx", "4xx", "503")),
]


ENDLESS = "GET /v1/events"
"""A stream that ends after ten minutes is nothing to be called a thousand times; tests/api/test_feed.py asks it."""


ALIKE = ("POST /v1/jobs/{job_id}/retry", "POST /v1/jobs/{job_id}/replay", "PATCH /v1/engines/{engine_id}")
"""Bodies with the fields of an order, of which POST /v1/jobs is asked each corner; here they get random cases only."""


def configuration(exceptions: list[Exemption]) -> str:
    """Write schemathesis.toml."""
    alike = "".join(
        f"[[operations]]\ninclude-name = '{each}'\nphases.coverage.enabled = {str(LONG).lower()}\n" for each in ALIKE
    )
    return f"{alike}[[operations]]\ninclude-name = '{ENDLESS}'\nenabled = false\n" + "\n".join(
        f"[[operations]]\ninclude-name = '{each.route}'\nchecks.{each.check}."
        + (f"expected-statuses = {list(each.statuses)}" if each.statuses else "enabled = false")
        for each in exceptions
    )


def token_of(dialect: str) -> str:
    """Return what opens a dialect."""
    return {"machines": MACHINE_TOKEN, "metrics": METRICS_TOKEN}.get(dialect, TOKENS[dialect])


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Start PostgreSQL, broker, server and a machine that draws colours."""
    tokens = {"API_TOKENS": ",".join(TOKENS.values()), "MACHINE_TOKEN": MACHINE_TOKEN, "METRICS_TOKEN": METRICS_TOKEN}
    with running_system(tmp_path_factory.mktemp("system"), **tokens, **SMALL) as system:
        system.add_machine("easel", MODEL)
        system.wait_for_machines(MODEL, 1)
        yield system


@pytest.fixture(scope="module")
def settings_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write schemathesis' settings."""
    file = tmp_path_factory.mktemp("schemathesis") / "schemathesis.toml"
    file.write_text(configuration(EXCEPTIONS), encoding="utf-8")
    return file


@pytest.fixture
def serving(system: System) -> System:
    """Let the machine draw again: v1 has a route that drains it, and schemathesis finds that."""
    system.post("v1/machines/easel/undrain", {})
    system.wait_for_machines(MODEL, 1)
    return system


@pytest.mark.parametrize("dialect", [dialect.name for dialect in DIALECTS])
def test_a_dialect_answers_as_its_document_says(dialect: str, serving: System, settings_file: Path) -> None:
    system = serving
    ended = subprocess.run(
        [
            *(Path(sys.executable).with_name("st"), "--no-color", "--config-file", settings_file),
            *("run", f"{system.url}/openapi/{dialect}.json", "--url", system.url, "--warnings", "off"),
            *("--header", f"Authorization: Bearer {token_of(dialect)}", "--request-timeout", "180"),
            *("--seed", str(SEED), "--max-examples", str(EXAMPLES), "--continue-on-failure"),
        ],
        cwd=settings_file.parent,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 0, ended.stdout + ended.stderr
    tested = re.search(r"(\d+) generated", ended.stdout)
    assert tested is not None
    assert int(tested[1]) >= LEAST
    assert not failures_of(system), failures_of(system)


LEAST = 10
"""Cases for the smallest document: a run that tests nothing would find nothing either."""


def test_after_all_that_the_same_machine_still_draws(serving: System) -> None:
    """What was ordered meanwhile has ended with pictures or with a sentence, and killed nobody."""
    job = serving.post("v1/jobs", {"model_id": MODEL, "prompt": "x", "priority": 9, "steps": 1})
    assert serving.ended(job["job_id"], 600)["status"] == "completed"

    failed = serving.get("v1/jobs?status=error")["jobs"]
    assert all(len(each["error"]["message"]) > len("an error") for each in failed)
    said = (serving.folder / "easel.log").read_text(encoding="utf-8", errors="replace")
    assert "Traceback" not in said, said[said.index("Traceback") :][:2000]
    assert said.count("machine@easel ready") == 1  # a worker that died is started anew, and says so again


def failures_of(system: System) -> list[str]:
    """Return what the server calls failures of its own, and restarts of its parts."""
    dead = [part.name for part in system.parts.values() if part.process is not None and part.process.status is not None]
    said = (system.folder / "web.log").read_text(encoding="utf-8", errors="replace")
    return dead + [line for line in said.splitlines() if re.search(r"Traceback|\[CRITICAL\]| failed$", line)]
