"""config.yaml and .env: everything that is wrong is told at once, with its place."""

from pathlib import Path

import pytest

from app import catalogue
from app.parse import SettingsError
from app.settings import Settings

FAR_FROM_AN_ADDRESS = (
    "config.yaml:7:5: models.sdxl.download_url: download_url must begin with https://, http://, hf://, civitai://, "
    "s3:// or file://, not 'nowhere'"
)
NO_NUMBER = (
    "config.yaml:8:5: models.sdxl.options: options.steps must be a value such as 20, or "
    '{"min": 10, "max": 40, "default": 20}'
)

RIGHT = """\
server:
  port: 8123
resources:
  max_steps: 40
models:
  flux:
    download_url: https://example.org/flux.safetensors
    options: {steps: {min: 10, max: 40, default: 20}}
"""


def refusal(folder: Path, text: str) -> list[str]:
    """Return the lines in which a config.yaml is refused."""
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError) as refused:
        catalogue.declared({}, folder)
    return str(refused.value).splitlines()


def test_a_config_that_is_right_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(RIGHT, encoding="utf-8")

    settings, models = Settings.load({}, tmp_path), catalogue.declared({}, tmp_path)

    assert (settings.port, settings.max_steps) == (8123, 40)
    assert models["flux"][0].options == {"steps": {"min": 10, "max": 40, "default": 20}}
    assert models["flux"][1] == "config"


def test_every_wrong_setting_is_told_at_once_with_its_line_and_column(tmp_path: Path) -> None:
    text = "server:\n  prot: 80\n  port: eighty\nresource:\n  max_steps: 3\nresources:\n  max_steps: 0\n"

    assert refusal(tmp_path, text) == [
        "config.yaml:4:1: resource: is no section; is it resources?; there are server, resources, models",
        "config.yaml:2:3: server.prot: is no setting; is it port?; README.md lists them",
        "config.yaml:3:3: server.port: is 'eighty'; an example that works: 8000",
        "config.yaml:7:3: resources.max_steps: is '0'; an example that works: 150",
    ]


def test_every_wrong_model_is_told_at_once_with_its_line_and_column(tmp_path: Path) -> None:
    text = """\
models:
  flux:
    download_url: https://example.org/flux.safetensors
    steps: 20
    hsah: abc
  sdxl:
    download_url: nowhere
    options:
      steps: many
  empty:
    name: a
"""

    found = refusal(tmp_path, text)

    assert found == [
        "config.yaml:4:5: models.flux.steps: is no field of a model; write it as options.steps",
        "config.yaml:5:5: models.flux.hsah: is no field of a model; is it hash?",
        FAR_FROM_AN_ADDRESS,
        NO_NUMBER,
        "config.yaml:10:3: models.empty.download_url: is missing",
    ]


def test_entries_of_a_list_are_told_by_their_ids_or_their_positions(tmp_path: Path) -> None:
    text = (
        "models:\n  - id: a\n    download_url: https://x/a\n    kind: lorra\n  - download_url: https://x/b\n  - id: a\n"
    )

    found = refusal(tmp_path, text)

    assert found[0].startswith("config.yaml:4:5: models.a.kind: kind must be one of")
    assert found[1:] == [
        "config.yaml:5:5: models[1].id: is missing",
        "config.yaml:6:5: models.a.download_url: is missing",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("server:\n  port: [80\n", "config.yaml:3:1: is not YAML: "),
        ("server:\n\tport: 80\n", "config.yaml:2:1: is not YAML: "),
        ("server:\n  port: 80\n  port: 81\n", "config.yaml:3:3: server.port: stands there twice; keep one"),
        ("server: {port: 80}\nresources: {port: 81}\n", "config.yaml:2:13: resources.port: stands in both sections"),
        ("models: 7\n", "config.yaml:1:1: models: must be a list of entries, or entries by their ids"),
        ("models: {a: {id: b, download_url: 'https://x/a'}}\n", "models.a.id: says 'b', and its key 'a'"),
    ],
)
def test_what_cannot_be_meant_is_told_with_its_place(tmp_path: Path, text: str, told: str) -> None:
    assert told in refusal(tmp_path, text)[0]


def test_a_secret_is_not_shown(tmp_path: Path) -> None:
    (line,) = refusal(tmp_path, "server:\n  broker_url: broker-secret\n")

    assert line.startswith("config.yaml:2:3: server.broker_url: cannot be read")
    assert "broker-secret" not in line


def test_a_wrong_line_of_dotenv_is_told_with_its_line_and_field(tmp_path: Path) -> None:
    lines = [
        "PORT=8000",
        "MODEL_A=a;owner/repo;A;huggingface;perhaps",
        "MODEL_B=b c;owner/repo;B;huggingface;no",
        "MODEL_C=c;owner/repo;C;huggingface;no;{steps: 2}",
    ]
    (tmp_path / ".env").write_text("\n".join(lines), encoding="utf-8")

    with pytest.raises(SettingsError) as refused:
        catalogue.declared({"MODEL_D": "d;repo"}, tmp_path)

    told = str(refused.value).splitlines()
    assert [line.split(": ")[:3] for line in told[:3]] == [
        [".env:2", "MODEL_A", "requires_auth"],
        [".env:3", "MODEL_B", "name"],
        [".env:4", "MODEL_C", "options_json"],
    ]
    assert told[3].startswith("MODEL_D: has 2 fields")


def test_what_the_environment_sets_in_place_of_a_line_is_not_told_as_a_line(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("MODEL_A=a;owner/repo;A;huggingface;no\n", encoding="utf-8")

    with pytest.raises(SettingsError, match=r"\AMODEL_A: has 2 fields"):
        catalogue.declared({"MODEL_A": "a;b"}, tmp_path)
