"""The Dockerfiles and what they start: held to hadolint's rules, and to the code."""

import os
import re
import subprocess
import sys
from configparser import ConfigParser
from fnmatch import fnmatch
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from app.core import dispatch
from tests.deploy.start import PARTS, START
from tests.support.processes import ROOT
from tests.unit.test_documents import command_of

DOCKERFILES = sorted((ROOT / "deploy").glob("Dockerfile.*"))
HADOLINT = Path(sys.prefix) / "bin" / "hadolint"


def steps(path: Path) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile with what follows them."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", "")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def of(path: Path, word: str) -> list[str]:
    """Return what follows an instruction, each time that it is there."""
    return [rest for each, rest in steps(path) if each == word]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_has_nothing_to_say(path: Path) -> None:
    done = subprocess.run([str(HADOLINT), str(path)], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_would_have_something_to_say(tmp_path: Path) -> None:
    wrong = tmp_path / "Dockerfile"
    wrong.write_text("FROM debian\nRUN cd /tmp\n", encoding="utf-8")

    assert subprocess.run([str(HADOLINT), str(wrong)], capture_output=True, check=False).returncode != 0


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_stands_on_an_exact_version_and_runs_as_nobody_special(path: Path) -> None:
    bases = [base for base in (*of(path, "FROM"), *of(path, "ARG")) if ":" in base]

    assert bases
    assert all(re.search(r":\d+\.\d+\.\d+-", base) for base in bases)
    assert of(path, "USER") == ["10001"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_a_change_of_the_code_downloads_nothing_anew(path: Path) -> None:
    order = steps(path)
    code = order.index(("COPY", "app app"))
    installs = [k for k, (word, rest) in enumerate(order) if word == "RUN" and "pip install" in rest]

    assert [("--no-index" in order[k][1]) for k in installs if k > code] == [True]
    assert all("--constraint constraints.txt" in order[k][1] for k in installs if k < code)


def test_the_servers_image_has_no_torch_and_the_machines_has_cuda() -> None:
    web, machine = (ROOT / "deploy" / name for name in ("Dockerfile.web", "Dockerfile.machine"))

    assert not re.search(r"torch|\[machine|embedded|dev\]", " ".join(of(web, "RUN")))
    assert any("'.[server" in step for step in of(web, "RUN"))
    assert of(machine, "ARG")[0].startswith("BASE=nvidia/cuda:")
    assert of(machine, "FROM") == ["${BASE}"]


def test_no_extra_of_the_server_brings_torch() -> None:
    known = ConfigParser()
    known.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = dict(known["options.extras_require"])

    assert "torch" in extras["machine"]
    assert not re.search(r"torch|diffusers|\[machine\]", extras["server"] + extras["broker"])


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_starts_a_part_that_exists(path: Path) -> None:
    (part,) = re.findall(r'"([^"]+)"', of(path, "CMD")[0])

    assert of(path, "ENTRYPOINT") == ['["start"]']
    assert part in PARTS
    assert f"COPY {START.relative_to(ROOT)}" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("part", sorted(PARTS))
def test_what_a_part_starts_exists(part: str) -> None:
    program, *words = PARTS[part]

    if program == "imagefleet":
        assert command_of(words) is not None
    elif program == "celery":
        assert find_spec(option(words, "--app")) is not None
        assert {"worker", "beat", "flower"} & set(words)
    else:
        assert program == "gunicorn"
        assert find_spec(option(words, "--config").removeprefix("python:")) is not None
        assert find_spec(words[-1].partition(":")[0]) is not None


def test_the_control_worker_consumes_exactly_the_servers_own_queues() -> None:
    queues = [option(words, "--queues") for words in PARTS.values() if "--queues" in str(words)]

    assert [sorted(each.split(",")) for each in queues] == [[dispatch.CONTROL_QUEUE, dispatch.WEBHOOK_QUEUE]]


def test_beats_scheduler_exists() -> None:
    module, _, name = option(PARTS["beat"], "--scheduler").partition(":")

    assert hasattr(import_module(module), name)


def test_the_script_says_what_it_starts() -> None:
    done = subprocess.run([str(START)], capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert all(part in done.stderr for part in PARTS)


def test_flower_is_not_opened_to_everybody() -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("FLOWER_")}

    done = subprocess.run([str(START), "flower"], env=environ, capture_output=True, text=True, check=False)

    assert "--address=0.0.0.0" in PARTS["flower"]
    assert done.returncode == 2
    assert "FLOWER_BASIC_AUTH=user:password" in done.stderr


def test_every_file_that_the_program_needs_is_a_part_of_the_package() -> None:
    known = ConfigParser()
    known.read(ROOT / "setup.cfg", encoding="utf-8")
    patterns = re.findall(r"[^\s,]+", known["options.package_data"]["app"])
    packages = {path.parent for path in (ROOT / "app").rglob("__init__.py")}
    files = [
        path.relative_to(ROOT / "app")
        for path in (ROOT / "app").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not (path.suffix == ".py" and path.parent in packages)
    ]

    left_out = [str(file) for file in files if not any(_matches(file, pattern) for pattern in patterns)]

    assert Path("migrations/env.py") in files
    assert left_out == []


def _matches(file: Path, pattern: str) -> bool:
    """Say whether setuptools would take a file: `*` is within one folder, `**` is any number of them."""
    if "**" in pattern:
        head, _, tail = pattern.partition("/**/")
        return str(file).startswith(f"{head}/") and fnmatch(file.name, tail)
    return len(file.parts) == len(Path(pattern).parts) and fnmatch(str(file), pattern)


def option(words: list[str], name: str) -> str:
    """Return an option's value."""
    return next(word.partition("=")[2] for word in words if word.startswith(f"{name}="))
