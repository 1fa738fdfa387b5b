"""The `imagefleet` command."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click

from app import advising, logs, operating, overseeing, runfile
from app.client import ApiClient, ApiError
from app.generate import generate
from app.parse import SettingsError
from app.settings import Settings, merged


def main() -> None:
    """Run the command; what a person can mend is told in a sentence, not in a traceback."""
    try:
        cli(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except (SettingsError, ApiError) as exc:
        click.echo(f"imagefleet: {exc}", err=True)
        sys.exit(2 if isinstance(exc, SettingsError) else 1)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="imagefleet")
def cli() -> None:
    """Serve pictures from many GPU machines."""


def _settings(**changes: Any) -> Settings:
    """Read the settings, with what the command line says on top."""
    said = {name.upper(): str(value) for name, value in changes.items() if value is not None}
    return Settings.load({**os.environ, **said})


@cli.command()
@click.option("--port", type=int, help="Port of the API and the page.  [default: 8000]")
@click.option("--a1111-port", type=int, help="Second port, for Automatic1111 clients; 0: none.  [default: 7860]")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    help="Folder for images/, db/ and models/.  [default: data]",
)
@click.option("--flower", is_flag=True, help="Start Flower too, on port 5555.")
@click.option("--machine/--no-machine", default=True, help="Draw on this computer too.  [default: yes]")
@click.option("--first-picture", is_flag=True, help="Draw a first picture and say where it lies.")
def up(
    port: int | None,
    a1111_port: int | None,
    data_dir: Path | None,
    **wishes: bool,
) -> None:
    """Start broker, database, API, control worker and one machine here, and serve until Ctrl-C."""
    from app.up import Wishes, run  # noqa: PLC0415  # the other commands need no server

    settings = _settings(port=port, a1111_port=a1111_port, data_dir=data_dir)
    settings = settings.require_driver() if wishes["machine"] else settings
    asked = a1111_port is not None or "A1111_PORT" in merged(os.environ, Path.cwd())
    logs.configure("WARNING")
    sys.exit(run(settings, os.environ, Wishes(a1111_port=asked, **wishes)))


@cli.command()
def machine() -> None:
    """Provision MACHINE_MODELS_NEEDED on this machine, and draw with what is proven."""
    from tasks.machine.host import run  # noqa: PLC0415  # the other commands need no worker

    settings = _settings()
    if not settings.broker_url and (running := runfile.find(settings)):
        settings = replace(
            settings,
            broker_url=running.broker_url,
            live_url=settings.live_url or running.broker_url,
            fleet_url=running.fleet_url,
            machine_token=settings.machine_token or running.machine_token,
        )
    if not settings.broker_url:
        raise SettingsError(
            f"no server runs on {settings.data_dir}: start one with `imagefleet up`, "
            "or set BROKER_URL, FLEET_URL and MACHINE_TOKEN to join a fleet",
        )
    sys.exit(run(settings.require_driver(), os.environ))


@cli.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def provision(arguments: tuple[str, ...]) -> None:
    """Download and prove models: the same as `python -m provisioning`; --help tells more."""
    from provisioning import cli as provisioning_cli  # noqa: PLC0415  # the other commands download nothing

    settings = _settings()
    environ: Mapping[str, str] = merged(os.environ, Path.cwd()) | {"MODELS_DIR": str(settings.models_dir)}
    if "FLEET_URL" not in environ and (running := runfile.find(settings)):
        environ = {**environ, "FLEET_URL": running.fleet_url, "MACHINE_TOKEN": running.machine_token}
    sys.exit(provisioning_cli.main(arguments, environ))


cli.add_command(generate)
cli.add_command(advising.capacity)
cli.add_command(advising.placement)
cli.add_command(overseeing.machines)
cli.add_command(operating.backup)
cli.add_command(operating.restore)
cli.add_command(operating.doctor)


@cli.group()
def jobs() -> None:
    """Look at the jobs of the running server."""


@jobs.command("list")
@click.option("--status", help="queued, processing, completed, error or cancelled.")
@click.option("--limit", type=int, default=20, show_default=True)
def jobs_list(status: str | None, limit: int) -> None:
    """List jobs, newest first."""
    query = urlencode({"limit": limit, **({"status": status} if status else {})})
    for job in ApiClient.of(_settings()).get(f"v1/jobs?{query}")["jobs"]:
        done = f"{100 * job['progress']:.0f} %"
        click.echo(f"{job['job_id']}  {job['status']:<10} {done:>5}  {job['model_id']:<24} {job['created_at'][:19]}")


@jobs.command("show")
@click.argument("job_id")
def jobs_show(job_id: str) -> None:
    """Show one job with all that is known about it."""
    click.echo(json.dumps(ApiClient.of(_settings()).get(f"v1/jobs/{job_id}"), indent=2))


@jobs.command("cancel")
@click.argument("job_id")
def jobs_cancel(job_id: str) -> None:
    """Cancel a queued or running job."""
    job = ApiClient.of(_settings()).post(f"v1/jobs/{job_id}/cancel", {})
    click.echo(f"{job['job_id']} is {job['status']}")


@cli.group()
def db() -> None:
    """Look after the database."""


@db.command("upgrade")
def db_upgrade() -> None:
    """Bring the database to this version's schema, and the built-in and configured models into the catalogue."""
    from app import catalogue, database  # noqa: PLC0415  # a machine has no database library at all
    from app.bootstrap import make_fleet  # noqa: PLC0415  # as above

    logs.configure("WARNING")
    fleet = make_fleet(_settings())
    click.echo(f"database is at revision {database.upgrade(fleet.engine)}")
    click.echo(f"catalogue: {', '.join(catalogue.load(fleet, os.environ, Path.cwd())) or 'nothing to add'}")


@cli.command()
def reload() -> None:
    """Check config.yaml and .env, and bring the models that they declare into the running server's catalogue."""
    from app import reloading  # noqa: PLC0415  # a machine has no database library at all
    from app.bootstrap import make_fleet  # noqa: PLC0415  # as above

    logs.configure("WARNING")
    changes = reloading.once(make_fleet(_settings()), os.environ, Path.cwd())
    click.echo("\n".join(changes.sentences()) or "nothing has changed")
    click.echo("what is set under server: and resources: is in effect after a restart")


@cli.group()
def models() -> None:
    """Look after the catalogue of the running server."""


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def models_list(*, as_json: bool) -> None:
    """List the models, and how far the fleet is with each."""
    found = ApiClient.of(_settings()).get("v1/models")["models"]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for model in found:
        size = f"{model['file_size_gb']:.3g} GB" if model["file_size_gb"] else "? GB"
        click.echo(
            f"{model['id']:<30} {model['kind']:<11} {size:>9}  {model['availability']:<12} {model['description'] or ''}"
        )


@models.command("show")
@click.argument("model_id")
def models_show(model_id: str) -> None:
    """Show one model."""
    click.echo(json.dumps(ApiClient.of(_settings()).get(f"v1/models/{model_id}"), indent=2))


@models.command("add")
@click.argument("source")
@click.option("--id", "model_id", help="Catalogue id.  [default: the file's name]")
@click.option("--name", help="File name.  [default: the last part of SOURCE]")
@click.option("--hash", "hash_", help="SHA-256, SHA-1, MD5, AutoV2 or CRC32, in hexadecimal.")
@click.option(
    "--kind",
    default="checkpoint",
    show_default=True,
    help="checkpoint, lora, vae, embedding, controlnet, ...",
)
@click.option("--base", help="Family: sd15, sdxl, sd3, flux, ...")
@click.option("--save-path", help="Where it lies below the models folder.  [default: KINDs/NAME]")
@click.option("--size-bytes", type=int, help="Exact size.")
@click.option("--depends-on", multiple=True, metavar="ID", help="A model that must be there too; may be repeated.")
@click.option("--auth", "auth_provider", type=click.Choice(["huggingface", "civitai"]), help="Whose token it needs.")
@click.option("--description", help="For people.")
def models_add(source: str, **options: Any) -> None:
    """Add a model: https://..., hf:OWNER/REPO[/FILE], civitai:VERSION_ID, s3://BUCKET/KEY or file:/PATH."""
    from app.sources import entry_of  # noqa: PLC0415  # one command's business

    added = ApiClient.of(_settings()).post("v1/models", entry_of(source, **options))
    click.echo(f"{added['id']} is in the catalogue; machines with MACHINE_MODELS_NEEDED={added['id']} will fetch it")


@models.command("rm")
@click.argument("model_id")
def models_rm(model_id: str) -> None:
    """Take a model out of the catalogue; files on machines stay."""
    ApiClient.of(_settings()).delete(f"v1/models/{model_id}")
    click.echo(f"{model_id} is no longer in the catalogue")


if __name__ == "__main__":
    main()
