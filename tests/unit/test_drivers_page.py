"""docs/drivers.md says what the table of families says."""

import re

import pytest

from tasks.machine.drivers.families import FAMILIES, Family
from tests.support.pages import Table, table_with

HALVES = {"float16": "fp16", "bfloat16": "bf16"}


@pytest.fixture(scope="module")
def page() -> Table:
    """Return the page's table of families, by the names of the rows."""
    return {first.split("`")[1]: cells for first, cells in table_with("drivers.md", "`sd15`").items()}


def begins(family: Family) -> str:
    able = {"img2img", "inpaint"} & set(family.pipelines)
    return "both" if len(able) == 2 else "".join(able) or "no"


def steered(family: Family) -> str:
    able = {task for task in family.pipelines if task.startswith("controlnet")}
    return {3: "all three", 1: "txt2img", 0: "no"}[len(able)]


def guidance(family: Family) -> str:
    if family.guidance == "none":
        return "none"
    number = f"{family.guidance_scale}" if family.guidance_scale else "0"
    return number if family.guidance == "classifier-free" else f"{number}, {family.guidance}"


def from_text(family: Family) -> str:
    if "txt2img" not in family.pipelines:
        return "refused"
    return f"yes, 1 to {family.steps_most} steps" if family.steps_most else "yes"


def test_the_page_has_the_rows_that_there_are(page: Table) -> None:
    assert list(page) == list(FAMILIES)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_row_of_the_page_says_what_the_table_says(page: Table, name: str) -> None:
    family = FAMILIES[name]

    assert page[name] == {
        "txt2img": from_text(family),
        "img2img, inpaint": begins(family),
        "ControlNet": steered(family),
        "steps": str(family.steps),
        "guidance": guidance(family),
        "size": str(family.size),
        "grid": str(family.grid),
        "half": HALVES[family.half],
    }


def test_the_page_says_what_drawing_is_estimated_to_take() -> None:
    (cells,) = table_with("drivers.md", "GB at the row's size").values()
    columns = [(re.sub(r"[`,]", " ", head).split(), float(cell)) for head, cell in cells.items()]
    # Later columns are narrower: `turbo` is of one row, behind the `sdxl` that others share.
    said = {
        name: size
        for words, size in columns
        for word in words
        for name in FAMILIES
        if name in {word, f"sdxl-{word}"} or (word.endswith("*") and name.startswith(word[:-1]))
    }
    said["sd3-turbo"] = said["sd3"]

    assert said == {name: family.activations for name, family in FAMILIES.items()}


@pytest.mark.parametrize("family", [row for row in FAMILIES.values() if row.file is None], ids=lambda row: row.name)
def test_the_page_names_a_configuration_for_each_family_that_has_single_files(family: Family) -> None:
    said = table_with("drivers.md", "SDXL refiner").values()
    addresses = [address for row in said for address in row.values()]

    if family.name == "sana-sprint":  # has none that diffusers reads
        assert not any(family.pack in address for address in addresses)
    else:
        assert any(f"hf://{family.pack}?include=" in address for address in addresses)
