"""`imagefleet capacity` and `imagefleet placement`: what the running server measures and proposes, for a terminal."""

import json
import os
from collections.abc import Mapping
from typing import Any

import click

from app.client import ApiClient
from app.core.durations import in_words
from app.settings import Settings


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--waiting", is_flag=True, help="Only models for which jobs wait.")
def capacity(*, as_json: bool, waiting: bool) -> None:
    """Say for each model what waits, who can draw it, and what one more machine would change."""
    found = ApiClient.of(Settings.load(os.environ)).get(f"v1/capacity{'?waiting=true' if waiting else ''}")
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    row = "{:<30} {:>7} {:>7} {:>8} {:>5} {:>6} {:>8} {:>12} {:>11}"
    click.echo(
        row.format("MODEL", "WAITING", "RUNNING", "WORK", "READY", "COMING", "DONE IN", "WITH 1 MORE", "TO PREPARE")
    )
    for each in found["models"]:
        counts = (each[name] for name in ("jobs_waiting", "jobs_running"))
        machines = (each[name] for name in ("machines_ready", "machines_coming"))
        told = ("clear_seconds", "clear_seconds_with_one_more", "new_machine_ready_seconds")
        times = (_seconds(each, name) for name in told)
        click.echo(row.format(each["model_id"], *counts, _seconds(each, "work_waiting_seconds"), *machines, *times))


def _seconds(found: Mapping[str, Any], name: str) -> str:
    return "?" if found[name] is None else in_words(found[name])


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def placement(*, as_json: bool) -> None:
    """Propose the next MACHINE_MODELS_NEEDED of every machine, from what is ordered. Nothing is changed."""
    found = ApiClient.of(Settings.load(os.environ)).get("v1/placement")
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for each in found["machines"]:
        click.echo(f"{each['machine_id']}{' *' if each['changed'] else ''}  MACHINE_MODELS_NEEDED={each['setting']}")
        click.echo(f"    {each['explanation']}")
    for each in found["unplaced"]:
        click.echo(f"no machine for {each['model_id']}: {each['explanation']}")
    if not found["machines"] and not found["unplaced"]:
        click.echo("no machine has checked in, and nothing is asked for")
