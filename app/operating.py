"""`imagefleet backup`, `restore` and `doctor`: looking after the computer on which the server runs."""

import json
import os
import sys
from pathlib import Path

import click

from app.settings import Settings

FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("file", type=FILE)
@click.option("--pictures/--no-pictures", default=True, help="Take the pictures along.  [default: yes]")
@click.option("--force", is_flag=True, help="Overwrite FILE.")
def backup(file: Path, *, pictures: bool, force: bool) -> None:
    """Write database and pictures into FILE, while the server runs. It holds secrets: keep it as safe as the server."""
    from app.archive import BackupError  # noqa: PLC0415  # a machine has no database library at all
    from app.backup import back_up  # noqa: PLC0415  # as above

    try:
        made = back_up(Settings.load(os.environ), file, pictures=pictures, overwrite=force)
    except (BackupError, OSError) as exc:
        raise click.ClickException(str(exc)) from exc
    size = sum(proof.size for proof in made.files.values())
    click.echo(f"{file}: {len(made.files)} files, {size / 1e6:.1f} MB, schema {made.revision}")
    for name in made.lost:
        click.echo(f"lost before: {name}", err=True)


@click.command()
@click.argument("file", type=FILE)
@click.option("--force", is_flag=True, help="Put aside what is there.")
def restore(file: Path, *, force: bool) -> None:
    """Prove FILE, a backup, and bring it back into DATA_DIR, with this version's schema. The server must not run."""
    from app.archive import BackupError  # noqa: PLC0415  # a machine has no database library at all
    from app.backup import bring_back  # noqa: PLC0415  # as above

    settings = Settings.load(os.environ)
    try:
        held, aside = bring_back(settings, file, overwrite=force)
    except (BackupError, OSError) as exc:
        raise click.ClickException(str(exc)) from exc
    click.echo(f"{settings.data_dir}: {len(held.files)} files of {held.made_at} are back, made by {held.version}")
    if aside:
        click.echo(f"what was there before is in {aside}; delete it once all is well")


SIGNS = {"ok": "  ok  ", "skipped": "  --  ", "warning": " warn ", "broken": "BROKEN"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--part",
    "parts",
    multiple=True,
    type=click.Choice(["server", "machine"]),
    help="What runs here; may be repeated.  [default: what the settings say]",
)
def doctor(*, as_json: bool, parts: tuple[str, ...]) -> None:
    """Look at everything that runs here stands on, and say what to do. Exit status 1 when something is broken."""
    from app.doctor.examine import examine, worst  # noqa: PLC0415  # the other commands look at nothing
    from app.doctor.findings import Level, Part  # noqa: PLC0415  # as above

    found = []
    for name, finding in examine(os.environ, frozenset(map(Part, parts))):
        found.append((name, finding))
        if not as_json:
            click.echo(f"{SIGNS[finding.level]} {name}: {finding.told}")
            if finding.remedy:
                click.echo(f"       what to do: {finding.remedy}")
    level = worst([finding for _, finding in found])
    if as_json:
        told = [{"name": name, "level": each.level, "told": each.told, "remedy": each.remedy} for name, each in found]
        click.echo(json.dumps({"level": level, "findings": told}, indent=2))
    sys.exit(1 if level is Level.BROKEN else 0)
