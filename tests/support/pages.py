"""Tables of the documentation, so that tests can hold them against the code."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

Table = dict[str, dict[str, str]]
"""What stands in a table: by what its rows begin with, then by its columns' heads."""


def tables(page: str) -> list[Table]:
    """Read the tables of a page below docs/, in order."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return [_table(block) for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)]


def table_with(page: str, row: str) -> Table:
    """Return the only table of a page that has such a row."""
    (found,) = [table for table in tables(page) if row in table]
    return found


def _table(block: str) -> Table:
    heads, _, *rows = [_cells(line) for line in block.splitlines()]
    return {row[0]: dict(zip(heads[1:], row[1:], strict=True)) for row in rows}


def _cells(line: str) -> list[str]:
    inside = line.strip().removeprefix("|").removesuffix("|")
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", inside)]
