"""Machines in the chart: their sets, their probes, how many there are, and whom they reach."""

import json
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from app.api.ops.metrics import to_text
from app.core.census import Census
from app.core.lifecycle import JobState
from tasks.machine.health import SILENT_SECONDS
from tasks.machine.host import GOODBYE_SECONDS
from tests.deploy.chart import DAEMON, EVERYTHING, MACHINE, SCALED, environ, of_kind, pods, rendered


def test_machines_are_a_set_for_each_set_of_models_with_a_cache_that_stays() -> None:
    manifests = rendered({"machines": [MACHINE, DAEMON]})
    flux, nodes = of_kind("StatefulSet", manifests)["machine-flux"], of_kind("DaemonSet", manifests)["machine-nodes"]
    there = pods(manifests)

    assert environ(there["machine-flux"])["MACHINE_MODELS_NEEDED"] == "flux-dev,sdxl-base"
    assert environ(there["machine-nodes"])["MACHINE_MODELS_NEEDED"] == "sdxl-base"
    assert flux["spec"]["replicas"] == 2
    claims = {claim["metadata"]["name"] for claim in flux["spec"]["volumeClaimTemplates"]}
    assert claims == {"models", "data"}
    assert flux["spec"]["persistentVolumeClaimRetentionPolicy"]["whenScaled"] == "Retain"
    assert environ(there["machine-flux"])["MODELS_DIR"] == "/models"
    (cache,) = [volume for volume in there["machine-nodes"]["volumes"] if "hostPath" in volume]
    assert cache["hostPath"]["path"] == "/var/lib/imagefleet"
    assert environ(there["machine-nodes"])["MODELS_DIR"].startswith("/data/")
    assert environ(there["machine-nodes"])["MACHINE_ID"] == "nodes-some-node_name"
    assert nodes["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_no_probe_restarts_a_machine_for_a_long_download() -> None:
    (container,) = pods(rendered())["machine-demo"]["containers"]

    # A machine that downloads is alive, and not ready: tests/machine/test_health.py.
    assert container["startupProbe"]["httpGet"]["path"] == "/live"
    assert container["livenessProbe"]["httpGet"]["path"] == "/live"
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready"
    starting = container["startupProbe"]["periodSeconds"] * container["startupProbe"]["failureThreshold"]
    assert starting > SILENT_SECONDS
    assert environ(pods(rendered())["machine-demo"])["MACHINE_HEALTH_HOST"] == "0.0.0.0"  # a kubelet asks there


@pytest.mark.parametrize("drain", [30, 600])
def test_a_machine_may_drain_before_it_is_killed(drain: int) -> None:
    pod = pods(rendered({"drainSeconds": drain}))["machine-demo"]

    assert environ(pod)["DRAIN_SECONDS"] == str(drain)
    assert pod["terminationGracePeriodSeconds"] > drain + GOODBYE_SECONDS


def test_machines_come_and_go_with_the_jobs_of_each_of_their_models() -> None:
    manifests = rendered(EVERYTHING)
    scaled = of_kind("ScaledObject", manifests)["machine-flux"]["spec"]
    queries = [trigger["metadata"]["query"] for trigger in scaled["triggers"]]

    assert "replicas" not in of_kind("StatefulSet", manifests)["machine-flux"]["spec"]
    assert scaled["scaleTargetRef"] == {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "name": "fleet-imagefleet-machine-flux",
    }
    assert queries == [
        f'sum(max by (state) (imagefleet_jobs{{model="{model}",state=~"queued|processing",namespace="fleet"}}))'
        ' or 0 * max(imagefleet_webhooks_owed{namespace="fleet"})'
        for model in SCALED["models"]  # type: ignore[attr-defined]
    ]
    assert {"queued", "processing"} <= set(JobState)


def test_no_machine_is_taken_away_because_prometheus_does_not_tell() -> None:
    scaled = of_kind("ScaledObject", rendered(EVERYTHING))["machine-flux"]["spec"]
    told = [trigger["metadata"]["ignoreNullValues"] for trigger in scaled["triggers"]]

    assert told == ["false", "false"]  # a text, or KEDA refuses it
    # With 0 replicas KEDA would fall through to what it does where no trigger is active: end them all.
    assert scaled["fallback"] == {"replicas": 1, "failureThreshold": 20, "behavior": "currentReplicasIfHigher"}
    assert {trigger["metricType"] for trigger in scaled["triggers"]} == {"AverageValue"}


def test_what_an_older_keda_does_not_know_is_not_said_to_it() -> None:
    fallback = {"replicas": 3, "behavior": "static"}
    values = {"machines": [SCALED | {"autoscaling": {"enabled": True, "fallback": fallback}}]}

    scaled = of_kind("ScaledObject", rendered(values))["machine-flux"]["spec"]

    assert scaled["fallback"] == {"replicas": 3, "failureThreshold": 20}


@pytest.mark.parametrize("labels", [{}, {"namespace": "fleet"}])
def test_a_model_without_jobs_counts_as_none_and_a_server_that_nobody_scrapes_as_no_answer(
    labels: dict[str, str], tmp_path: Path
) -> None:
    scaled = of_kind("ScaledObject", rendered({"machines": [SCALED], "keda": {"labels": labels}}))["machine-flux"]
    query = scaled["spec"]["triggers"][0]["metadata"]["query"]
    of_ours = ',namespace="fleet"'
    # Two web processes that tell the same; after ten minutes the jobs are drawn, after twenty nobody is scraped.
    series = [
        {"series": f'imagefleet_jobs{{model="flux-dev",state="{state}",pod="{pod}"{of_ours}}}', "values": "2x10 stale"}
        for state in ("queued", "processing")
        for pod in ("a", "b")
    ]
    series.append({"series": f'imagefleet_webhooks_owed{{pod="a"{of_ours}}}', "values": "7x20 stale"})
    expected = {"5m": [4], "15m": [0], "25m": []}
    asked = [
        {"expr": query, "eval_time": at, "exp_samples": [{"labels": "{}", "value": value} for value in values]}
        for at, values in expected.items()
    ]
    path = tmp_path / "test.yml"
    path.write_text(json.dumps({"tests": [{"interval": "1m", "input_series": series, "promql_expr_test": asked}]}))

    ran = subprocess.run(["promtool", "test", "rules", path], capture_output=True, text=True, check=False)

    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_series_that_machines_are_counted_by_are_told() -> None:
    nothing: dict[str, Any] = {field.name: 0 if "webhooks" in field.name else {} for field in fields(Census)}
    idle, _ = to_text(Census(**nothing), {}, "")
    told, _ = to_text(Census(**nothing | {"jobs": {("flux-dev", "queued"): 3}}), {}, "")

    assert 'imagefleet_jobs{model="flux-dev",state="queued"} 3.0' in told.decode()
    assert "imagefleet_jobs{" not in idle.decode()
    assert "\nimagefleet_webhooks_owed 0.0\n" in idle.decode()  # by which KEDA knows that it is 0 jobs


def test_a_machine_reaches_the_broker_and_the_api_and_names_and_nothing_else_and_nobody_reaches_it() -> None:
    policy = of_kind("NetworkPolicy", rendered())["machines"]["spec"]

    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["ingress"] == []
    reached = {(port["port"], json.dumps(rule["to"])) for rule in policy["egress"] for port in rule["ports"]}
    assert {port for port, _ in reached} == {8000, 6379, 53}
    assert not [to for _, to in reached if "ipBlock" in to]
    machine = of_kind("StatefulSet", rendered())["machine-demo"]["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= machine.items()
    web = of_kind("Deployment", rendered())["web"]["spec"]["template"]["metadata"]["labels"]
    assert policy["egress"][0]["to"][0]["podSelector"]["matchLabels"].items() <= web.items()


def test_downloads_are_a_switch_that_opens_public_addresses_only() -> None:
    policy = of_kind("NetworkPolicy", rendered(EVERYTHING))["machines"]["spec"]

    (downloads,) = [rule for rule in policy["egress"] if "ipBlock" in json.dumps(rule)]
    assert downloads["ports"] == [{"port": 443, "protocol": "TCP"}]
    assert "169.254.0.0/16" in downloads["to"][0]["ipBlock"]["except"]
    assert "10.0.0.0/8" in downloads["to"][0]["ipBlock"]["except"]


def test_who_may_reach_the_api_can_be_named_and_machines_always_may() -> None:
    (rule,) = of_kind("NetworkPolicy", rendered(EVERYTHING))["web"]["spec"]["ingress"]

    assert rule["from"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "machine"
    assert rule["from"][1] == {"podSelector": {}}


def test_a_node_that_is_emptied_takes_one_machine_of_a_set_at_a_time() -> None:
    budgets = of_kind("PodDisruptionBudget", rendered(EVERYTHING))

    assert {name: budget["spec"]["maxUnavailable"] for name, budget in budgets.items()} == {
        "web": 1,
        "machine-flux": 1,  # none for the DaemonSet: see machines.yaml
    }
