"""compose.yaml says what the code does, holds to the specification, and gives no more rights than are needed."""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from app import healthy, tracing
from app.settings import Settings, variables
from tests.deploy.start import PARTS
from tests.support.processes import ROOT
from tests.support.servers import environ_of

SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]
OURS = sorted(name for name, service in SERVICES.items() if service["image"].startswith("imagefleet-"))
FOREIGN = sorted(SERVICES.keys() - set(OURS))
STAYING = sorted(SERVICES.keys() - {"migrate"})

KNOWN_TO_IMAGES = {
    # https://hub.docker.com/_/postgres, "Environment Variables"
    "postgres": {"POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB"},
    # Read by our own command lines and health checks, not by the images.
    "redis": {"REDIS_PASSWORD"},
    "prometheus": {"METRICS_TOKEN"},
    # Flower reads each of its options from FLOWER_<OPTION>.
    "flower": {"FLOWER_BASIC_AUTH"},
    # Each of Grafana's settings is GF_<SECTION>_<NAME>.
    "grafana": {"GF_SECURITY_ADMIN_PASSWORD", "GF_ANALYTICS_REPORTING_ENABLED", "GF_ANALYTICS_CHECK_FOR_UPDATES"},
}


def example() -> dict[str, str]:
    """Return what .env.example says."""
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    return dict(re.findall(r"^([A-Z_]+)=(.*)$", text, re.MULTILINE))


def config(folder: Path, text: str, given: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Let Compose itself read a file with variables: it holds it to the specification's schema, and puts them in."""
    (folder / "compose.yaml").write_text(text, encoding="utf-8")
    (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in given.items()), encoding="utf-8")
    compose = Path(sys.prefix) / "bin" / "docker-compose"
    command = [str(compose), "--project-directory", str(folder), "config", "--format", "json"]
    return subprocess.run(command, env=environ_of(folder), cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Return the services as Compose understands them, everything put in, with every profile."""
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    secrets = {name: f"some-{name.lower()}" for name in re.findall(r"\$\{([A-Z_]+):\?", text)}
    given = example() | secrets | {"COMPOSE_PROFILES": "cpu,gpu,monitoring"}
    done = config(tmp_path_factory.mktemp("compose"), text, given)
    assert done.returncode == 0, done.stderr
    services: dict[str, dict[str, Any]] = json.loads(done.stdout)["services"]
    return services


def seconds(duration: str) -> float:
    """Read a duration as Compose writes it."""
    return sum(float(n) * {"h": 3600, "m": 60, "s": 1}[unit] for n, unit in re.findall(r"([\d.]+)([hms])", duration))


def test_compose_takes_the_file_with_everything_put_in(read: dict[str, dict[str, Any]]) -> None:
    assert read.keys() == SERVICES.keys()
    assert "some-postgres_password@postgres" in read["web"]["environment"]["DATABASE_URL"]


@pytest.mark.parametrize("wrong", ["cap_drop: ALL", "helthcheck: {}"])
def test_compose_refuses_what_the_specification_does_not_know(wrong: str, tmp_path: Path) -> None:
    done = config(tmp_path, f"services:\n  web:\n    image: web:1\n    {wrong}\n", {})

    assert done.returncode != 0


def test_nothing_starts_before_every_secret_is_set(tmp_path: Path) -> None:
    done = config(tmp_path, (ROOT / "compose.yaml").read_text(encoding="utf-8"), example())

    assert done.returncode != 0
    assert "set it in .env" in done.stderr


def test_the_example_names_exactly_what_compose_takes() -> None:
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")

    assert set(example()) == set(re.findall(r"(?<!\$)\$\{([A-Z_]+)", text)) | {"COMPOSE_PROFILES"}


def test_what_the_example_does_not_name_comes_from_files_of_their_own_for_the_server_and_for_machines(
    tmp_path: Path,
) -> None:
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    secrets = dict.fromkeys(re.findall(r"\$\{([A-Z_]+):\?", text), "some")
    (tmp_path / "server.env").write_text("TRUSTED_PROXIES=10.0.0.0/8\nPORT=9999\n", encoding="utf-8")
    (tmp_path / "machine.env").write_text("DRAIN_SECONDS=5\n", encoding="utf-8")

    done = config(tmp_path, text, example() | secrets | {"COMPOSE_PROFILES": "cpu,gpu,monitoring"})

    assert done.returncode == 0, done.stderr
    told = {name: service.get("environment", {}) for name, service in json.loads(done.stdout)["services"].items()}
    assert {name for name in told if "TRUSTED_PROXIES" in told[name]} == {"migrate", "web", "a1111", "control", "beat"}
    assert {name for name in told if "DRAIN_SECONDS" in told[name]} == {"machine", "machine-gpu"}
    assert told["web"]["PORT"] == "8000"  # what the file itself says about its parts holds
    ignored = (ROOT / ".gitignore").read_text().split()
    kept_out = (ROOT / ".dockerignore").read_text().split()
    assert {"/server.env", "/machine.env"} <= set(ignored)
    assert {"server.env", "machine.env"} <= set(kept_out)


def test_a_machine_without_a_gpu_comes_by_default_and_one_with_all_gpus_by_its_profile(
    read: dict[str, dict[str, Any]],
) -> None:
    assert example()["COMPOSE_PROFILES"] == "cpu"
    assert example()["MACHINE_MODELS_NEEDED"] == "demo-shapes"
    assert {name: read[name]["profiles"] for name in read if "profiles" in read[name]} == {
        "machine": ["cpu"],
        "machine-gpu": ["gpu"],
        "prometheus": ["monitoring"],
        "grafana": ["monitoring"],
    }
    (device,) = read["machine-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert (read["machine"]["environment"]["DEVICE"], read["machine-gpu"]["environment"]["DEVICE"]) == ("cpu", "cuda")


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_can_write_nothing_but_its_volumes_and_has_no_rights_of_roots(
    name: str, read: dict[str, dict[str, Any]]
) -> None:
    service = read[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(volume.get("read_only") for volume in service.get("volumes", []) if volume["type"] == "bind")
    if name in FOREIGN:
        assert service["user"] in {"redis", "postgres", "nobody", "grafana"}


@pytest.mark.parametrize("name", STAYING)
def test_a_service_that_stays_is_started_anew_and_asked_for_its_health(
    name: str, read: dict[str, dict[str, Any]]
) -> None:
    service = read[name]

    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"]
    assert service["stop_grace_period"]


def test_what_runs_once_is_over_before_those_start_that_need_it(read: dict[str, dict[str, Any]]) -> None:
    waiting = {name for name, service in read.items() if "migrate" in service.get("depends_on", {})}

    assert read["migrate"]["restart"] == "no"
    assert waiting >= {"web", "control", "beat"}
    for name in waiting:
        assert read[name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_an_image_is_named_with_its_exact_version(name: str) -> None:
    assert re.search(r":v?\d+\.\d+(\.\d+)?(-[a-z]+)?$", SERVICES[name]["image"]), SERVICES[name]["image"]


@pytest.mark.parametrize("name", OURS)
def test_a_command_and_a_health_check_of_ours_exist(name: str) -> None:
    (part,) = SERVICES[name]["command"]
    test = SERVICES[name].get("healthcheck", {}).get("test")

    assert part in PARTS
    assert part == name.removesuffix("-gpu")
    if name != "migrate":
        assert test == ["CMD", "python", "-m", "app.healthy", part]
        assert part in healthy.PARTS


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_only_variables_are_set_that_somebody_reads(name: str) -> None:
    named = set(SERVICES[name].get("environment", {}))

    ours = {name for name, _, _ in variables()} | set(tracing.ENDPOINTS)
    known = KNOWN_TO_IMAGES.get(name, set()) | (ours if name in OURS else set())

    assert named <= known


@pytest.mark.parametrize("name", OURS)
def test_the_environment_of_each_service_of_ours_makes_settings(
    name: str, read: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    known = Settings.load(read[name]["environment"], tmp_path)

    published = {int(port["target"]) for port in read[name].get("ports", [])}
    assert published <= {known.port, known.a1111_port, 5555}


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_no_secret_is_in_the_file(name: str) -> None:
    for variable, value in SERVICES[name].get("environment", {}).items():
        if re.search("PASSWORD|TOKEN|KEY|AUTH|_URL", variable) and "://" not in value:
            assert value.startswith("${"), variable
        if "@" in value:
            assert re.search(r":\$\{[A-Z_]+:\?[^}]*\}@", value), variable


@pytest.mark.parametrize("name", ["machine", "machine-gpu"])
def test_a_machine_reaches_no_database_and_knows_no_way_there(name: str, read: dict[str, dict[str, Any]]) -> None:
    service = read[name]

    assert not {"DATABASE_URL", "API_TOKENS", "SECRET_KEY"} & service["environment"].keys()
    assert not service["networks"].keys() & read["postgres"]["networks"].keys()


@pytest.mark.parametrize("name", ["machine", "machine-gpu"])
def test_a_machine_may_drain_before_it_is_killed(
    name: str, read: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("DRAIN_SECONDS", raising=False)
    from tasks.machine.host import GOODBYE_SECONDS  # noqa: PLC0415  # a machine's own

    drain = Settings.load(read[name]["environment"], tmp_path).drain_seconds

    assert seconds(read[name]["stop_grace_period"]) > drain + GOODBYE_SECONDS


def test_what_is_for_operators_listens_on_this_host_alone(read: dict[str, dict[str, Any]]) -> None:
    open_to_all = {
        name
        for name, service in read.items()
        for port in service.get("ports", [])
        if port.get("host_ip") != "127.0.0.1"
    }

    assert open_to_all == {"web", "a1111"}
    assert read["flower"]["environment"]["FLOWER_BASIC_AUTH"]


def test_prometheus_asks_a_service_that_is_there_and_grafana_asks_prometheus(read: dict[str, dict[str, Any]]) -> None:
    known = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    (job,) = known["scrape_configs"]
    (source,) = yaml.safe_load(
        (ROOT / "deploy" / "grafana" / "provisioning" / "datasources" / "prometheus.yaml").read_text(encoding="utf-8")
    )["datasources"]

    assert job["static_configs"] == [{"targets": [f"web:{read['web']['environment']['PORT']}"]}]
    assert job["authorization"]["credentials_file"] in read["prometheus"]["entrypoint"][-1]
    assert source["url"] == "http://prometheus:9090"
    assert all((ROOT / "deploy" / "prometheus" / name).is_file() for name in known["rule_files"])


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_what_is_mounted_from_here_is_here(name: str) -> None:
    for volume in SERVICES[name].get("volumes", []):
        source = volume.partition(":")[0]
        if source.startswith("."):
            assert (ROOT / source).is_dir(), source
            assert list((ROOT / source).iterdir()), source
