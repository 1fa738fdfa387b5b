"""What deploy/start starts, read from it."""

import re
import shlex

from tests.support.processes import ROOT

START = ROOT / "deploy" / "start"

PARTS: dict[str, list[str]] = {
    name: shlex.split(command.replace("\\\n", ""))
    for name, command in re.findall(
        r"^    ([a-z0-9]+)\)\s+exec (.*?)\s+;;", START.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
}
"""Each part's command line."""
