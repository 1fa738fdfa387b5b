"""Entries from config.yaml and MODEL_* lines, and what makes an entry impossible."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import catalogue
from app.core.errors import InvalidModel
from app.core.fleet import Fleet
from app.parse import SettingsError
from app.places import Document
from app.settings import merged
from tests.builders import an_entry, the_model

SEED_004 = r"""
MODEL_X="fixed-step-model;some/repo;Fixed Step Model;huggingface;false;{\\"fixed_steps\\": 25}"
MODEL_Y="range-step-model;another/repo;Range Step Model;huggingface;false;{\\"steps\\": {\\"min\\": 10, \\"max\\": 40, \\"default\\": 20}}"
MODEL_SANA="sana-sprint;Efficient-Large-Model/Sana_Sprint_1.6B_1024px_diffusers;Sana Sprint 1.6B;huggingface;false;{\\"fixed_steps\\": 2}"
MODEL_FLUX="flux-dev;black-forest-labs/FLUX.1-dev;FLUX.1 dev;huggingface;true"
"""  # noqa: E501  # literally as the seed has them


def from_lines(**lines: str) -> list[Any]:
    return list(catalogue.from_lines(lines))


def from_config(*entries: Any) -> list[Any]:
    return catalogue.from_config(Document({"models": list(entries)}))


def test_the_lines_of_seed_004_are_read_as_they_stand_in_a_dotenv_file(tmp_path: Any) -> None:
    (tmp_path / ".env").write_text(SEED_004)
    texts = merged({}, tmp_path)

    found = {entry.id: entry for entry in catalogue.from_lines(texts)}

    assert found["fixed-step-model"].options == {"fixed_steps": 25}
    assert found["range-step-model"].options == {"steps": {"min": 10, "max": 40, "default": 20}}
    assert found["sana-sprint"].options == {"fixed_steps": 2}
    assert found["sana-sprint"].download_url == "hf://Efficient-Large-Model/Sana_Sprint_1.6B_1024px_diffusers"
    assert found["sana-sprint"].description == "Sana Sprint 1.6B"
    assert (found["flux-dev"].auth_required, found["flux-dev"].auth_provider) == (True, "huggingface")
    assert found["fixed-step-model"].auth_required is False


@pytest.mark.parametrize("line", SEED_004.strip().splitlines())
def test_a_line_of_seed_004_means_the_same_in_the_environment(line: str, tmp_path: Any) -> None:
    (tmp_path / ".env").write_text(line)
    name, _, quoted = line.partition("=")

    from_file = from_lines(**{name: merged({}, tmp_path)[name]})
    from_environment = from_lines(**{name: quoted})

    assert from_file == from_environment


def test_options_may_hold_semicolons_and_be_plain_json() -> None:
    (entry,) = from_lines(MODEL_A='a;owner/repo;A model;huggingface;no;{"style": "a; b", "fixed_steps": 4}')

    assert entry.options == {"style": "a; b", "fixed_steps": 4}


def test_a_model_variable_without_semicolons_belongs_to_somebody_else() -> None:
    assert from_lines(MODEL_PATH="/models", MODEL_SERVER_PORT="80", OTHER="a;b;c;d;e") == []


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("a;owner/repo;A model;huggingface", "4 fields"),
        ("a;owner/repo;A model;huggingface;perhaps", "requires_auth"),
        ("a;owner/repo;A model;huggingface;no;{fixed_steps: 2}", "options_json is not JSON"),
        ("a;owner/repo;A model;huggingface;no;[2]", "must be an object"),
        ('a;owner/repo;A model;huggingface;no;{"fixed_steps": "2"}', "options.fixed_steps"),
        ("a b;owner/repo;A model;huggingface;no", "id must"),
        ("a;;A model;huggingface;no", "download_url"),
        ("a;owner/repo;A model;elsewhere;no", "download_url"),
    ],
)
def test_a_wrong_line_is_told_with_its_variable_and_field(line: str, told: str) -> None:
    with pytest.raises(SettingsError) as refused:
        from_lines(MODEL_WRONG=line)

    assert "MODEL_WRONG" in str(refused.value)
    assert told in str(refused.value)


def test_an_entry_of_config_yaml_needs_an_id_and_an_address() -> None:
    (entry,) = from_config({"id": "flux-dev", "download_url": "https://example.org/m/flux1-dev.safetensors"})

    assert entry.name == "flux1-dev.safetensors"
    assert entry.save_path == "checkpoints/flux1-dev.safetensors"


def test_an_entry_of_config_yaml_has_the_catalogues_columns() -> None:
    given = {
        "id": "a-lora",
        "download_url": "https://example.org/a.safetensors",
        "kind": "lora",
        "hash": "sha256:" + "ab" * 32,
        "dependencies": ["sdxl-base"],
        "tags": ["style"],
        "file_size_gb": 0.2,
    }

    (entry,) = from_config(given)

    assert {name: getattr(entry, name) for name in given} == given
    assert entry.save_path == "loras/a.safetensors"


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("flux-dev", "models[1]: must be an entry with at least `id`"),
        ({"id": "a"}, "models.a.download_url: is missing"),
        ({"id": "a", "download_url": "https://x/y", "colour": "red"}, "colour"),
        ({"id": "a", "download_url": "https://x/y", "hash": "abc"}, "hash"),
        ({"id": "a", "download_url": "https://x/y", "kind": "lorra"}, "kind"),
        ({"id": "a", "download_url": "https://x/y", "save_path": "../y"}, "save_path"),
        ({"id": "a", "download_url": "https://x/y", "dependencies": "b"}, "dependencies"),
        ({"id": "a", "download_url": "https://x/y", "options": ["b"]}, "options"),
        ({"id": "a", "download_url": "https://x/y", "size_bytes": "10"}, "size_bytes"),
    ],
)
def test_a_wrong_entry_is_told_with_its_position_and_field(entry: Any, told: str) -> None:
    right = {"id": "right", "download_url": "https://example.org/right.safetensors"}

    with pytest.raises(SettingsError) as refused:
        from_config(right, entry)

    assert str(refused.value).startswith("config.yaml: models")
    assert told in str(refused.value)


@pytest.mark.parametrize(
    "hash_",
    [None, "0a1b2c3d", "0a1b2c3d4e", "ab" * 16, "ab" * 20, "AB" * 32, "sha256:" + "ab" * 32, "md5:" + "ab" * 16],
)
def test_hashes_of_every_length_in_use_are_taken(hash_: str | None) -> None:
    assert an_entry(hash=hash_).hash == hash_


@pytest.mark.parametrize("hash_", ["", "ab", "zz" * 32, "ab" * 33, "sha256:", "sha256:abc", "ab" * 32 + "\n"])
def test_hashes_that_are_none_are_refused(hash_: str) -> None:
    with pytest.raises(InvalidModel, match="hash"):
        an_entry(hash=hash_)


@pytest.mark.parametrize(
    "path",
    ["", "/etc/passwd", "../x", "a/../../x", ".receipts/x.json", ".", "..", "a\\..\\x", "./../x", "a/\x00", "C:/x"],
)
def test_a_path_that_leaves_the_models_folder_is_refused(path: str) -> None:
    with pytest.raises(InvalidModel, match="save_path"):
        an_entry(save_path=path)


@given(st.text(max_size=40))
def test_whatever_path_is_taken_stays_inside_the_models_folder(path: str) -> None:
    try:
        entry = an_entry(save_path=path)
    except InvalidModel:
        return
    parts = entry.save_path.split("/")
    assert ".." not in parts
    assert not entry.save_path.startswith(("/", "."))
    assert "\0" not in entry.save_path


@pytest.mark.parametrize("model_id", ["", "-a", ".a", "a b", "a/b", "a" * 201, "ä", "a\n"])
def test_an_id_that_is_no_queue_and_no_file_name_is_refused(model_id: str) -> None:
    with pytest.raises(InvalidModel, match="id must"):
        an_entry(model_id, save_path="checkpoints/a", name="a", download_url="https://example.org/a")


def test_every_problem_of_an_entry_is_told_at_once() -> None:
    with pytest.raises(InvalidModel) as refused:
        an_entry(save_path="/x", hash="x", kind="x", download_url="x", name="")

    assert len(refused.value.facts["problems"]) == 5


def test_loading_writes_every_source_and_the_environment_wins(fleet: Fleet, tmp_path: Any) -> None:
    (tmp_path / "config.yaml").write_text(
        "models: [{id: a, download_url: 'https://example.org/a.bin'}, {id: b, download_url: 'https://example.org/b.bin'}]"
    )

    ids = catalogue.load(fleet, {"MODEL_A": "a;owner/repo;From a line;huggingface;no"}, tmp_path)
    again = catalogue.load(fleet, {}, tmp_path)

    assert {"a", "b", "demo-shapes"} <= set(ids)
    assert again == ids
    assert the_model(fleet, "b").origin == "config"
    assert the_model(fleet, "demo-shapes").origin == "built-in"
    assert the_model(fleet, "a").origin == "config"
