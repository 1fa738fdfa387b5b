"""Rules, alerts and the board: read by Prometheus' own tool, tried case by case, and explained in the documents."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.processes import ROOT, WAIT_SECONDS

RULES = ROOT / "deploy" / "prometheus"
BOARD = ROOT / "deploy" / "grafana" / "dashboards" / "imagefleet.json"
PAGE = ROOT / "docs" / "observability.md"


def promtool(*words: str | Path) -> None:
    """Run it, and fail with what it says."""
    ran = subprocess.run(
        ["promtool", *map(str, words)], capture_output=True, text=True, check=False, timeout=WAIT_SECONDS
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def alerts() -> list[dict[str, Any]]:
    content = yaml.safe_load((RULES / "alerts.yml").read_text())
    return [rule for group in content["groups"] for rule in group["rules"]]


def board_expressions() -> list[str]:
    board = json.loads(BOARD.read_text())
    shown = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    return shown + [each["expr"] for each in board["annotations"]["list"]]


def test_prometheus_reads_the_rules_and_the_alerts() -> None:
    promtool("check", "rules", RULES / "rules.yml", RULES / "alerts.yml")


def test_prometheus_reads_its_configuration(tmp_path: Path) -> None:
    token = tmp_path / "metrics-token"
    token.write_text("secret")
    for name in ("rules.yml", "alerts.yml"):
        (tmp_path / name).write_text((RULES / name).read_text())
    config = (RULES / "prometheus.yml").read_text().replace("/tmp/metrics-token", str(token))  # where Compose has it
    (tmp_path / "prometheus.yml").write_text(config)

    promtool("check", "config", tmp_path / "prometheus.yml")


def test_every_alert_fires_when_it_should_and_not_before() -> None:
    promtool("test", "rules", ROOT / "tests" / "prometheus" / "alerts.yml")


def test_every_alert_is_tried() -> None:
    tried = (ROOT / "tests" / "prometheus" / "alerts.yml").read_text()

    assert [rule["alert"] for rule in alerts() if rule["alert"] not in tried] == []


def test_prometheus_reads_every_expression_of_the_board(tmp_path: Path) -> None:
    # Grafana fills its variables in before it asks.
    rules = [
        {"record": f"panel:{number}:is_read", "expr": expression.replace("$model", ".*")}
        for number, expression in enumerate(board_expressions())
    ]
    path = tmp_path / "board.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": rules}]}))

    assert len(rules) > 20
    promtool("check", "rules", path)


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: str(rule["alert"]))
def test_an_alert_says_what_to_do_and_where_more_of_it_stands(rule: dict[str, Any]) -> None:
    told = rule["annotations"]
    page, anchor = told["runbook_url"].split("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), re.MULTILINE)

    assert anchor in {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert len(told["description"]) > 80
    assert rule["labels"]["severity"] in {"warning", "critical"}


def test_the_board_asks_the_source_that_is_provisioned() -> None:
    folder = ROOT / "deploy" / "grafana" / "provisioning"
    source = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text())["datasources"][0]
    board = json.loads(BOARD.read_text())
    variables = {each["name"]: each for each in board["templating"]["list"]}

    asked = {target["datasource"]["uid"] for panel in board["panels"] for target in panel.get("targets", [])}
    asked |= {each["datasource"]["uid"] for each in [*board["annotations"]["list"], variables["model"]]}

    # By its variable: another Grafana has a source of another name.
    assert asked == {"${datasource}"}
    assert variables["datasource"]["query"] == source["type"] == "prometheus"
    assert variables["datasource"]["current"]["value"] == source["uid"]
    identities = [panel["id"] for panel in board["panels"]]
    assert len(identities) == len(set(identities))
