"""What watches a fleet in Kubernetes: it is let in, and the chart brings the files that it needs."""

import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import yaml
from flask import Flask

from app.api import visitors
from app.settings import Settings
from tests.deploy.bring_helm import helm
from tests.deploy.chart import CHART, EVERYTHING, environ, of_kind, pods, rendered, template
from tests.deploy.start import PARTS
from tests.support.processes import ROOT


def test_prometheus_reads_the_web_with_its_token() -> None:
    manifests = rendered(EVERYTHING)
    (monitor,) = of_kind("ServiceMonitor", manifests).values()
    service = of_kind("Service", manifests)["web"]

    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert service["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "imagefleet"  # as alerts.yml asks for it
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert endpoint["authorization"]["credentials"]["key"] == "METRICS_TOKEN"


def test_prometheus_may_ask_a_pod_by_its_address_where_names_are_allowed(tmp_path: Path) -> None:
    pod = pods(rendered({"serverEnv": {"ALLOWED_HOSTS": "fleet.example.org"}}))["web"]
    (address,) = [each for each in pod["containers"][0]["env"] if each["name"] == "POD_IP"]
    given = environ(pod)
    allowed = given["ALLOWED_HOSTS"].replace(given["POD_IP"], "10.1.2.3")

    assert address["valueFrom"] == {"fieldRef": {"fieldPath": "status.podIP"}}
    urls = dict.fromkeys(("DATABASE_URL", "BROKER_URL"), "redis://some")
    known = Settings.load(given | urls | {"ALLOWED_HOSTS": allowed}, tmp_path)
    asked = {host: refusal(known, host) for host in ("10.1.2.3:8000", "fleet.example.org", "10.9.9.9:8000")}
    assert asked == {"10.1.2.3:8000": None, "fleet.example.org": None, "10.9.9.9:8000": 421}


def refusal(known: Settings, host: str) -> int | None:
    """Return with which status a server that has tokens refuses to be asked under a name."""
    with Flask(__name__).test_request_context("/metrics", headers={"Host": host}):
        problem = visitors.wrong_host(known, is_open=False)
    return problem.status if problem else None


def rules_of(*names: str) -> list[dict[str, Any]]:
    """Return the groups of rules that files of deploy/prometheus hold."""
    folder = ROOT / "deploy" / "prometheus"
    found: list[dict[str, Any]] = []
    for name in names:
        found += yaml.safe_load((folder / name).read_text(encoding="utf-8"))["groups"]
    return found


def test_the_operators_rules_are_those_of_the_files_and_prometheus_reads_them(tmp_path: Path) -> None:
    (rule,) = of_kind("PrometheusRule", rendered(EVERYTHING)).values()
    groups = rule["spec"]["groups"]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": groups}), encoding="utf-8")

    assert groups == rules_of("rules.yml", "alerts.yml")
    assert len({group["name"] for group in groups}) == len(groups)  # Kubernetes takes no two of one name
    assert rule["metadata"]["labels"]["release"] == "prometheus"  # the operator may choose rules by it
    ran = subprocess.run(
        ["promtool", "check", "rules", tmp_path / "rules.yml"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_grafanas_sidecar_finds_the_board_that_the_file_holds() -> None:
    board = of_kind("ConfigMap", rendered(EVERYTHING))["board"]
    file = ROOT / "deploy" / "grafana" / "dashboards" / "imagefleet.json"

    assert json.loads(board["data"]["imagefleet.json"]) == json.loads(file.read_text(encoding="utf-8"))
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_what_watches_is_a_switch_for_each() -> None:
    kinds = {manifest["kind"] for manifest in rendered()}

    assert not kinds & {"ServiceMonitor", "PrometheusRule", "ConfigMap", "ScaledObject"}


def test_a_chart_that_lost_its_links_says_so_instead_of_bringing_no_alerts(tmp_path: Path) -> None:
    for name in ("Chart.yaml", "values.yaml"):
        shutil.copy(CHART / name, tmp_path)
    shutil.copytree(CHART / "templates", tmp_path / "templates")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "rules.yml").write_text("../../prometheus/rules.yml", encoding="utf-8")  # an unpacked zip

    done = template({"monitoring": {"prometheusRule": {"enabled": True}}}, tmp_path)

    assert done.returncode != 0
    assert "files/rules.yml is not in this chart" in done.stderr


def test_a_packed_chart_holds_the_files_themselves(tmp_path: Path) -> None:
    command = [str(helm()), "package", str(CHART), "--destination", str(tmp_path)]
    subprocess.run(command, capture_output=True, check=True)
    (packed,) = tmp_path.iterdir()

    with tarfile.open(packed) as archive:
        held = {member.name: member for member in archive if "/files/" in member.name}

    assert {name.rpartition("/")[2] for name in held} == {"rules.yml", "alerts.yml", "board.json"}
    assert all(member.isfile() and member.size > 1000 for member in held.values())


def test_flower_remembers_no_more_tasks_than_it_has_memory_for() -> None:
    (tasks,) = [int(word.partition("=")[2]) for word in PARTS["flower"] if word.startswith("--max-tasks=")]
    (container,) = pods(rendered(EVERYTHING))["flower"]["containers"]

    # Celery's memory of events takes 4.2 KB for a task that was sent, received, started and ended. Flower keeps 100,000
    # unless told otherwise, and the sweep alone sends as many within days.
    assert container["resources"]["limits"]["memory"] == "512Mi"
    assert tasks * 4_200 < 512 * 2**20 / 4
