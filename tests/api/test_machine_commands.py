"""`imagefleet machines` before a real server: what an operator reads, and taking a machine out of service."""

import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from click.testing import CliRunner, Result
from flask import Flask

from app.api.application import make_application
from app.cli import cli
from app.core.fleet import Fleet
from app.core.lifecycle import HoldingState
from app.core.machines import HoldingReport
from app.settings import Settings
from tests.builders import MODEL, a_machine, a_running_job, let_pass
from tests.support.fakes import Clock
from tests.support.web import serving


def run(application: Flask, folder: Path, *commands: str) -> list[Result]:
    """Run commands against a server."""
    with serving(application) as url:
        environ = {"FLEET_URL": url, "DATA_DIR": str(folder)}  # no server runs on this folder
        return [CliRunner().invoke(cli, command.split(), env=environ) for command in commands]


def test_an_operator_reads_what_each_machine_holds_awaits_and_could_not_get(
    fleet: Fleet, clock: Clock, application: Flask, tmp_path: Path
) -> None:
    a_machine(fleet, "gone", ready_for=[MODEL])
    a_machine(fleet, "stopped", device={"left": True})
    let_pass(fleet, clock, timedelta(minutes=10).total_seconds())
    a_machine(
        fleet,
        "gpu-1",
        holdings=[
            HoldingReport(model_id=MODEL, state=HoldingState.READY),
            HoldingReport(
                model_id="big",
                state=HoldingState.DOWNLOADING,
                bytes_done=250 * 10**6,
                bytes_total=10**9,
                bytes_per_second=5e6,
            ),
            HoldingReport(model_id="near", state=HoldingState.VERIFYING, error_code="broker_away", error="no broker"),
            HoldingReport(model_id="gated", state=HoldingState.ERROR, error_code="needs_token", error="set HF_TOKEN"),
        ],
    )

    alive, everyone = run(application, tmp_path, "machines list", "machines list --all")

    assert alive.output.splitlines() == [
        "gpu-1  idle",
        f"    ready: {MODEL}",
        "    big: downloading, 25 % of 1 GB, 2 min to go",
        "    gated: error (needs_token): set HF_TOKEN",
        "    near: verifying: no broker",
    ]
    assert "gone  silent for " in everyone.output
    assert re.search(r"^stopped  left .+ ago: it was stopped$", everyone.output, re.MULTILINE)


def test_a_machine_is_taken_out_of_service_and_back(fleet: Fleet, application: Flask, tmp_path: Path) -> None:
    a_running_job(fleet)

    drained, listed, back, nobody = run(
        application, tmp_path, "machines drain gpu-1", "machines list", "machines undrain gpu-1", "machines drain gpu-9"
    )

    assert drained.output.startswith("gpu-1 gets no more jobs, 1 job to finish; "), drained.output
    assert listed.output.startswith("gpu-1  drained, 1 to finish\n")
    assert back.output == "gpu-1 is drawing\n"
    assert str(nobody.exception) == "no machine 'gpu-9' has ever checked in"


def test_a_machine_that_is_gone_is_forgotten(fleet: Fleet, clock: Clock, application: Flask, tmp_path: Path) -> None:
    a_machine(fleet, "gone")
    let_pass(fleet, clock, 20)
    a_machine(fleet, "gpu-1")

    done, listed, alive = run(
        application, tmp_path, "machines forget gone", "machines list --all", "machines forget gpu-1"
    )

    assert done.output.startswith("gone is forgotten")
    assert listed.output == "gpu-1  idle\n"
    assert "'gpu-1' checks in; stop it first" in str(alive.exception)


def test_who_shows_no_token_or_a_wrong_one_is_told_which_variable_holds_it(
    fleet: Fleet, settings: Settings, tmp_path: Path
) -> None:
    guarded = make_application(fleet, replace(settings, api_tokens=("a-client",), machine_token="a-machine"))
    with serving(guarded) as url:
        environ = {"FLEET_URL": url, "DATA_DIR": str(tmp_path)}
        answers = [
            CliRunner().invoke(cli, ["machines", "list"], env={**environ, "CLIENT_TOKEN": token})
            for token in ("", "wrong")
        ]

    assert all("CLIENT_TOKEN" in str(answer.exception) for answer in answers), answers
