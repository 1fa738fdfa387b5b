"""`imagefleet machines`: who is there, how far each is with its models, and taking one out of service."""

import json
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

import click

from app.client import ApiClient
from app.core.durations import in_words
from app.settings import Settings


@click.group()
def machines() -> None:
    """Look at the machines of the running server, and take one out of service."""


@machines.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--all", "with_silent", is_flag=True, help="Those too that no longer check in.")
def machines_list(*, as_json: bool, with_silent: bool) -> None:
    """Say of each machine whether it takes jobs, how far it is with each model, and what it could not get."""
    found = list(_machines(_client(), with_silent=with_silent))
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for machine in found:
        click.echo(f"{machine['machine_id']}  {_standing(machine)}")
        for line in _models(machine["models"]):
            click.echo(f"    {line}")
    if not found:
        click.echo("no machine checks in; one that should says why in its own log, and `imagefleet doctor` there too")


@machines.command("drain")
@click.argument("machine_id")
def machines_drain(machine_id: str) -> None:
    """Let a machine finish what it draws, and give it no more jobs."""
    machine = _client().post(f"v1/machines/{quote(machine_id, safe='')}/drain", {})
    drawn = len(machine["jobs"])
    rest = f"{drawn} {'job' if drawn == 1 else 'jobs'} to finish" if drawn else "and draws nothing"
    click.echo(f"{machine['machine_id']} gets no more jobs, {rest}; `imagefleet machines undrain` takes it back")


@machines.command("undrain")
@click.argument("machine_id")
def machines_undrain(machine_id: str) -> None:
    """Give a machine jobs again, also one that was taken for sick."""
    machine = _client().post(f"v1/machines/{quote(machine_id, safe='')}/undrain", {})
    click.echo(f"{machine['machine_id']} is {_standing(machine)}")


@machines.command("forget")
@click.argument("machine_id")
def machines_forget(machine_id: str) -> None:
    """Forget a machine that is gone for good; jobs keep its name."""
    _client().delete(f"v1/machines/{quote(machine_id, safe='')}")
    click.echo(f"{machine_id} is forgotten; should it check in again, it is a new machine")


def _client() -> ApiClient:
    return ApiClient.of(Settings.load(os.environ))


def _machines(client: ApiClient, *, with_silent: bool) -> Iterator[Mapping[str, Any]]:
    query = {} if with_silent else {"alive": "true"}
    after = None
    while True:
        page = client.get(f"v1/machines?{urlencode({**query, **({'after': after} if after else {})})}")
        yield from page["machines"]
        after = page["next"]
        if not after:
            return


def _standing(machine: Mapping[str, Any]) -> str:
    """Say in words whether a machine is given jobs, and if not, why."""
    silence = in_words((datetime.now(UTC) - datetime.fromisoformat(machine["last_seen_at"])).total_seconds())
    if machine.get("left"):  # an older server does not say it
        return f"left {silence} ago: it was stopped"
    if not machine["alive"]:
        return f"silent for {silence}"
    if machine["sick"]:
        return f"gets no jobs: {machine['sick']}"
    drawn = len(machine["jobs"])
    if machine["drained"]:
        return f"drained, {drawn} to finish" if drawn else "drained"
    return f"drawing, {drawn} at a time" if drawn > 1 else "drawing" if drawn else "idle"


def _models(found: list[Mapping[str, Any]]) -> Iterator[str]:
    """Say how far a machine is: what is ready in one line, and of everything else what is awaited or wrong."""
    ready = [each["model_id"] for each in found if each["state"] == "ready"]
    if ready:
        yield f"ready: {', '.join(ready)}"
    for each in found:
        if each["state"] == "error":
            error = each["error"] or {"code": "unknown", "message": "it does not say why"}
            yield f"{each['model_id']}: error ({error['code']}): {error['message']}"
        elif each["state"] != "ready":
            reason = f": {each['error']['message']}" if each["error"] else ""
            yield f"{each['model_id']}: {each['state']}{_progress(each)}{reason}"


def _progress(model: Mapping[str, Any]) -> str:
    done, total, rate = (model[name] for name in ("bytes_done", "bytes_total", "bytes_per_second"))
    if model["state"] != "downloading" or not total:
        return ""
    left = f", {in_words((total - done) / rate)} to go" if rate else ""
    return f", {100 * done / total:.0f} % of {total / 1e9:.3g} GB{left}"
