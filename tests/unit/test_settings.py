"""Settings: where they come from, which wins, and what a person is told about wrong ones."""

from pathlib import Path

import pytest

from app.parse import SettingsError
from app.settings import Settings, variables

TOKENS = {"API_TOKENS": "for-clients", "MACHINE_TOKEN": "for-machines"}


def test_defaults_need_nothing_and_lie_below_one_folder(tmp_path: Path) -> None:
    settings = Settings.load({"DATA_DIR": str(tmp_path)}, tmp_path)

    assert settings.models_dir == tmp_path / "models"
    assert settings.database_url == f"sqlite:///{tmp_path}/db/imagefleet.db"
    assert (settings.host, settings.port, settings.api_tokens) == ("127.0.0.1", 8000, ())


def test_every_wrong_variable_is_named_at_once_with_what_was_found_and_an_example(tmp_path: Path) -> None:
    environ = {"PORT": "eighty", "MAX_STEPS": "1.5", "FLEET_URL": "nowhere", "REJECT_UNSERVED": "perhaps"}

    with pytest.raises(SettingsError) as refused:
        Settings.load(environ, tmp_path)

    lines = str(refused.value).splitlines()
    assert sorted(line.split()[0] for line in lines) == sorted(environ)
    assert all(repr(environ[line.split()[0]]) in line and "an example" in line for line in lines)


@pytest.mark.parametrize("name", ["PORT", "WEB_WORKERS", "WEB_THREADS", "MAX_ATTEMPTS", "MAX_IMAGES", "MAX_BATCH_IDS"])
@pytest.mark.parametrize("value", ["-1", "0"])
def test_a_number_that_makes_no_sense_is_refused(name: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=name):
        Settings.load({name: value}, tmp_path)


@pytest.mark.parametrize(
    ("name", "value"), [("DEVICE", "gpu"), ("LOG_LEVEL", "LOUD"), ("PORT", "65536"), ("DRIVER", "paint")]
)
def test_a_value_out_of_a_known_set_is_refused(name: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=name):
        Settings.load({name: value}, tmp_path)


def test_the_environment_wins_over_dotenv_which_wins_over_config_yaml(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "server: {port: 1, host: localhost}\nresources: {max_steps: 10, max_size: 512}"
    )
    (tmp_path / ".env").write_text("PORT=2\nMAX_STEPS=20\n")

    settings = Settings.load({"PORT": "3"}, tmp_path)

    assert (settings.port, settings.max_steps, settings.max_size, settings.host) == (3, 20, 512, "localhost")


def test_what_downloads_need_is_read_from_the_same_places(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("S3_ENDPOINT=http://store.example:9000\n")

    settings = Settings.load({"HF_TOKEN": "hf_secret"}, tmp_path)

    assert (settings.downloads.s3.endpoint, settings.downloads.hf_token) == ("http://store.example:9000", "hf_secret")
    assert "hf_secret" not in repr(settings)


def test_a_wrong_address_for_downloads_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="S3_ENDPOINT='nowhere'"):
        Settings.load({"S3_ENDPOINT": "nowhere"}, tmp_path)


def test_an_empty_variable_counts_as_unset(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("server: {port: 81}")

    assert Settings.load({"PORT": "", "MACHINE_ID": "  "}, tmp_path).port == 81


@pytest.mark.parametrize("name", ["gpu 7", "gpu/7", "-gpu", "g" * 201])
def test_a_machines_name_that_no_server_takes_is_refused_at_once(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"MACHINE_ID is .* works: gpu-7"):
        Settings.load({"MACHINE_ID": name}, tmp_path)

    assert Settings.load({"MACHINE_ID": " Node.3_gpu-7 "}, tmp_path).machine_id == "Node.3_gpu-7"


def test_a_list_may_be_a_yaml_list_or_text_with_commas(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("resources: {machine_models_needed: [flux-dev, sdxl-base]}")

    from_yaml = Settings.load({}, tmp_path).machine_models_needed
    from_text = Settings.load({"MACHINE_MODELS_NEEDED": " flux-dev, sdxl-base ,"}, tmp_path).machine_models_needed

    assert from_yaml == from_text == ("flux-dev", "sdxl-base")


def test_config_file_names_another_file_and_a_missing_one_is_told(tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("server: {port: 82}")

    assert Settings.load({"CONFIG_FILE": str(other)}, tmp_path).port == 82
    with pytest.raises(SettingsError, match=r"missing\.yaml"):
        Settings.load({"CONFIG_FILE": str(tmp_path / "missing.yaml")}, tmp_path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("server: {prot: 80}", "server.prot"),
        ("serve: {port: 80}", "config.yaml:1:1: serve: is no section; is it server?"),
        ("- a list", "list"),
        ("server: {port: [", "not YAML"),
        ("server: 80", "server"),
    ],
)
def test_a_config_yaml_that_cannot_be_meant_is_refused_by_name(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)

    with pytest.raises(SettingsError) as refused:
        Settings.load({}, tmp_path)

    assert told in str(refused.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "fleet.example.org"])
def test_a_host_that_others_reach_needs_tokens(host: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="API_TOKENS"):
        Settings.load({"HOST": host}, tmp_path)

    assert Settings.load({"HOST": host} | TOKENS, tmp_path).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_no_tokens(host: str, tmp_path: Path) -> None:
    assert Settings.load({"HOST": host}, tmp_path).api_tokens == ()


def test_tokens_for_clients_without_one_for_machines_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="MACHINE_TOKEN"):
        Settings.load({"API_TOKENS": "for-clients"}, tmp_path)


def test_secrets_are_neither_in_the_repr_nor_in_a_complaint(tmp_path: Path) -> None:
    secrets = TOKENS | {
        "HF_TOKEN": "hf-secret",
        "CIVITAI_TOKEN": "civitai-secret",
        "DATABASE_URL": "postgresql+psycopg://fleet:db-secret@db/fleet",
        "BROKER_URL": "redis://:broker-secret@broker:6379/0",
    }

    shown = repr(Settings.load(secrets, tmp_path))
    with pytest.raises(SettingsError) as refused:
        Settings.load({"BROKER_URL": "broker-secret", "PORT": "x"}, tmp_path)

    assert not [word for word in ("for-clients", "for-machines", "-secret") if word in shown]
    assert "BROKER_URL" in str(refused.value)
    assert "secret" not in str(refused.value).partition("an example")[0]


def test_a_broker_is_asked_for_where_nothing_works_without(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="BROKER_URL"):
        Settings.load({}, tmp_path).require_broker()


def test_every_variable_tells_what_it_is_for() -> None:
    assert all(about and name == name.upper() for name, _, about in variables())
