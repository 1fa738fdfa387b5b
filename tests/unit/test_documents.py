"""README and the pages of docs/ say what the code does."""

import re
from importlib.util import find_spec
from pathlib import Path

import click
import yaml

from app import catalogue
from app.cli import cli
from app.places import Document
from app.settings import Settings, variables
from provisioning import hub
from tasks.machine.drivers import DRIVERS
from tasks.machine.drivers.contract import ModelFiles
from tasks.machine.drivers.onnx import recipe_of
from tests.support.fences import PAGES, fences
from tests.support.processes import ROOT

LANGUAGES = {"console", "dotenv", "ini", "javascript", "json", "promql", "python", "sh", "sql", "text", "toml", "yaml"}
"""Of the blocks on our pages."""


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


def test_every_block_says_what_it_is() -> None:
    found = {fence.language for page in PAGES for fence in fences(page)}

    assert found <= LANGUAGES, [f for page in PAGES for f in fences(page) if f.language not in LANGUAGES]


def test_every_make_target_module_and_command_that_a_page_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    spans = [
        (page.name, span) for page in PAGES for span in re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8"))
    ]

    makes = [(name, span) for name, span in spans if re.fullmatch(r"make [a-z-]+( .*)?", span)]
    modules = [(name, found[1]) for name, span in spans if (found := re.search(r"python3? -m (\S+)", span))]
    ours = [(name, span) for name, span in spans if re.fullmatch(r"imagefleet [a-z]+.*", span)]

    assert [make for make in makes if make[1].split()[1] not in targets] == []
    assert [(name, module) for name, module in modules if find_spec(module) is None] == []
    assert [each for each in ours if not exists(each[1].split()[1:])] == []
    assert len(makes) > 5
    assert len(ours) > 5


def exists(words: list[str]) -> bool:
    """Say whether `imagefleet` knows these words: commands, and the options of the last one."""
    command: click.Command = cli
    for word in words:
        if word in {"--", "…"} or "[" in word or "|" in word:
            break
        if isinstance(command, click.Group) and not word.startswith("-"):
            if word not in command.commands:
                return False
            command = command.commands[word]
        elif word.startswith("--") and not command.context_settings.get("ignore_unknown_options"):
            known = [option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)]
            if word.partition("=")[0] not in {*known, "--help"}:
                return False
    return True


def command_of(words: list[str]) -> click.Command | None:
    """Find a command of `imagefleet` by its words."""
    found: click.Command | None = cli
    for word in words:
        found = found.commands.get(word) if isinstance(found, click.Group) else None
    return found
