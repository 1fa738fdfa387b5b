"""Who may import whom: the contracts of setup.cfg hold."""

import subprocess
import sys
from pathlib import Path

from tests.support.processes import ROOT


def test_every_import_contract_is_kept() -> None:
    program = Path(sys.executable).with_name("lint-imports")

    ended = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)

    assert ended.returncode == 0, ended.stdout


def test_importing_a_machine_brings_no_sql_and_no_web_framework() -> None:
    told = (
        "import sys, tasks.machine.app; print(sorted({'sqlalchemy', 'flask', 'torch', 'diffusers'} & set(sys.modules)))"
    )

    ended = subprocess.run([sys.executable, "-c", told], cwd=ROOT, capture_output=True, text=True, check=True)

    assert ended.stdout.strip() == "[]"
