"""README, compose.yaml and the Dockerfiles say what the code does."""

import json
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from app import catalogue
from app.cli import cli
from app.core import dispatch
from app.places import Document
from app.settings import Settings, variables
from provisioning import hub
from tasks.machine.drivers import DRIVERS
from tasks.machine.drivers.contract import ModelFiles
from tasks.machine.drivers.onnx import recipe_of
from tests.support.processes import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = sorted(name for name, service in SERVICES.items() if service["image"].startswith("imagefleet-"))
DOCKERFILES = sorted((ROOT / "deploy").glob("Dockerfile.*"))

KNOWN_TO_IMAGES = {
    # https://hub.docker.com/_/postgres, "Environment Variables"
    "postgres": {"POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB"},
    # Read by our own command line and health check, not by the image.
    "redis": {"REDIS_PASSWORD"},
    # Flower reads each of its options from FLOWER_<OPTION>.
    "flower": {"FLOWER_BASIC_AUTH"},
}


def variables_of_compose() -> dict[str, str]:
    """Return the variables that compose.yaml takes from `.env`, with their defaults."""
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    found = re.findall(r"(?<!\$)\$\{([A-Z_]+)(?::([-?])([^}]*))?\}", text)
    return {name: value if mark == "-" else f"some-{name.lower()}" for name, mark, value in found}


def environment_of(service: str) -> dict[str, str]:
    """Return a service's environment as compose would make it."""
    given = variables_of_compose()
    environ: dict[str, str] = SERVICES[service].get("environment", {})
    return {name: re.sub(r"\$\{([A-Z_]+)[^}]*\}", lambda m: given[m[1]], text) for name, text in environ.items()}


def commands() -> Iterator[Any]:
    """Return every command line of ours in compose.yaml and the Dockerfiles."""
    for name in OURS:
        yield pytest.param(SERVICES[name]["command"], id=f"compose {name}")
    for path in DOCKERFILES:
        (line,) = re.findall(r"^CMD (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        yield pytest.param(json.loads(line), id=path.name)


def test_the_readme_lists_every_setting_with_its_default_and_no_other() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    rows = re.findall(r"^\| `([A-Z0-9_]+)` \| *(?:`([^`]*)`)? *\| (.+?) \|$", readme, re.MULTILINE)

    assert {name: default for name, default, _ in rows} == {name: default for name, default, _ in variables()}
    assert all(meaning.strip() for _, _, meaning in rows)


def test_every_link_in_the_readme_leads_somewhere() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    links = [link for link in re.findall(r"\]\(([^)#\s]+)\)", readme) if "://" not in link]

    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_command_in_the_readme_exists() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"imagefleet ((?:[a-z]+)(?: upgrade| add)?)\b", readme))

    assert "up" in named
    for words in named:
        assert command_of(words.split()) is not None, words


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_compose_sets_only_variables_that_somebody_reads(service: str) -> None:
    named = set(SERVICES[service].get("environment", {}))

    known = KNOWN_TO_IMAGES.get(service, set()) | ({name for name, _, _ in variables()} if service in OURS else set())

    assert named <= known


@pytest.mark.parametrize("service", OURS)
def test_the_environment_of_each_service_of_ours_makes_settings(service: str, tmp_path: Path) -> None:
    Settings.load(environment_of(service), tmp_path)


@pytest.mark.parametrize("service", [name for name in OURS if "machine" in name])
def test_a_machine_in_compose_gets_no_database_address(service: str) -> None:
    assert "DATABASE_URL" not in environment_of(service)


def test_the_example_environment_names_exactly_what_compose_takes() -> None:
    example = (ROOT / "deploy" / "env.example").read_text(encoding="utf-8")

    assert set(re.findall(r"^([A-Z_]+)=", example, re.MULTILINE)) == set(variables_of_compose())


@pytest.mark.parametrize("command", list(commands()))
def test_every_command_of_a_container_exists(command: list[str]) -> None:
    program, *words = command

    if program == "imagefleet":
        assert command_of(words) is not None
    elif program == "celery":
        assert find_spec(option(words, "--app")) is not None
        assert {"worker", "beat", "flower"} & set(words)
    else:
        assert program == "gunicorn"
        assert find_spec(option(words, "--config").removeprefix("python:")) is not None
        assert find_spec(words[-1].partition(":")[0]) is not None


def test_the_control_worker_of_compose_consumes_exactly_the_servers_own_queues() -> None:
    consumed = [option(service["command"], "--queues") for service in SERVICES.values() if "--queues" in str(service)]

    assert [sorted(queues.split(",")) for queues in consumed] == [[dispatch.CONTROL_QUEUE, dispatch.WEBHOOK_QUEUE]]


def test_the_example_of_a_config_pack_makes_entries_of_the_catalogue() -> None:
    page = (ROOT / "docs" / "drivers.md").read_text(encoding="utf-8")
    example = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)[0]

    pack, checkpoint = catalogue.from_config(Document(yaml.safe_load(example.replace("…", "a" * 64))))

    assert pack.kind == "config"
    assert checkpoint.dependencies == [pack.id]
    assert hub.Repository.parse(pack.download_url).include == ("*.json", "*.txt")


def test_every_other_example_makes_entries_of_the_kind_that_it_is_about() -> None:
    page = (ROOT / "docs" / "drivers.md").read_text(encoding="utf-8")
    examples = re.findall(r"^## ([^\n]*)\n(?:(?!^## ).)*?```yaml\n(.*?)```", page, re.DOTALL | re.MULTILINE)
    documents = {title: Document(yaml.safe_load(text)) for title, text in examples if title != "Files"}
    found = {title: catalogue.from_config(document) for title, document in documents.items()}

    assert {title: {entry.kind for entry in entries} for title, entries in found.items()} == {
        "Background removal": {"onnx"},
        "Safety checker": {"safety"},
    }
    mine = next(entry for entry in found["Background removal"] if "background" in entry.options)
    recipe = recipe_of(ModelFiles(mine.id, Path(mine.name), "p", options=mine.options), "background")
    assert (recipe.size, recipe.sigmoid) == (512, True)


def test_every_driver_can_be_chosen_by_the_settings(tmp_path: Path) -> None:
    assert [Settings.load({"DRIVER": name}, tmp_path).driver for name in DRIVERS] == list(DRIVERS)


def test_the_models_we_bring_lie_beside_their_entries() -> None:
    entries = list(catalogue.built_in())

    assert [entry.id for entry in entries] == ["demo-shapes"]
    for entry in entries:
        path = catalogue.artifacts() / entry.download_url.rpartition("/")[2]
        assert path.stat().st_size == entry.size_bytes
        assert entry.hash is not None


def command_of(words: list[str]) -> click.Command | None:
    """Find a command of `imagefleet` by its words."""
    found: click.Command | None = cli
    for word in words:
        found = found.commands.get(word) if isinstance(found, click.Group) else None
    return found


def option(words: list[str], name: str) -> str:
    """Return an option's value, however it is written."""
    for position, word in enumerate(words):
        if word == name:
            return words[position + 1]
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    raise AssertionError(f"{name} is not in {words}")
