"""What our code never does, read from the code itself: run data, or trust what was downloaded."""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.support.processes import ROOT

FORBIDDEN_CALLS = {
    "eval",
    "exec",
    "os.system",
    "os.popen",
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
    "marshal.loads",
    "shelve.open",
    "joblib.load",
    "yaml.load",
    "yaml.full_load",
    "yaml.unsafe_load",
    "tempfile.mktemp",
    "torch.hub.load",
}

SOURCES = sorted(path for room in ("app", "tasks", "provisioning") for path in (ROOT / room).rglob("*.py"))


def calls_in(text: str) -> Iterator[tuple[str, dict[str, object], int]]:
    """Name the calls of a module, with their constant arguments by name, and the lines."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            named: dict[str, object] = {
                each.arg: each.value.value
                for each in node.keywords
                if each.arg is not None and isinstance(each.value, ast.Constant)
            }
            yield ast.unparse(node.func), named, node.lineno


def faults_in(text: str) -> list[str]:
    """Say what a module does that ours never do."""
    found = []
    for name, named, line in calls_in(text):
        if name in FORBIDDEN_CALLS:
            found.append(f"{line}: {name}")
        if name in {"torch.load", "self._torch.load"} and named.get("weights_only") is not True:
            found.append(f"{line}: {name} without weights_only=True")
        if named.get("trust_remote_code") or named.get("shell") or named.get("verify") is False:
            found.append(f"{line}: {name}({named})")
        if name.endswith("np.load") and named.get("allow_pickle"):
            found.append(f"{line}: {name} of pickles")
    return found


def test_no_module_runs_what_it_reads() -> None:
    faults = {str(path.relative_to(ROOT)): faults_in(path.read_text(encoding="utf-8")) for path in SOURCES}

    assert {path: lines for path, lines in faults.items() if lines} == {}
    assert len(SOURCES) > 200


def test_pickles_are_read_in_one_place_only() -> None:
    places = [
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        if any(name == "torch.load" for name, _, _ in calls_in(path.read_text(encoding="utf-8")))
    ]

    assert places == ["tasks/machine/drivers/pickles.py"]


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "eval(text)",
        "pickle.loads(data)",
        "yaml.load(text)",
        "subprocess.run(line, shell=True)",
        "Pipeline.from_pretrained(name, trust_remote_code=True)",
        "requests.get(url, verify=False)",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_each_of_these_would_be_found(line: str) -> None:
    assert faults_in(line) != []
    assert faults_in("torch.load(path, weights_only=True); yaml.safe_load(text)") == []


def test_every_test_that_the_security_page_names_is_there() -> None:
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))

    names = re.findall(r"`(test_[a-z0-9_]+)`", page)
    paths = re.findall(r"`((?:app|tests|provisioning)/[a-z0-9_/]+\.py)`", page)

    assert len(names) > 15
    assert [name for name in names if f"def {name}(" not in tests] == []
    assert [path for path in paths if not (ROOT / path).is_file()] == []
