"""Machines in the chart: their sets, their probes, how many there are, and whom they reach."""

import json
from dataclasses import fields
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
    assert environ(there["machine-nodes"])["MACHINE_ID"] == "nodes-$(NODE_NAME)"
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
        for model in SCALED["models"]  # type: ignore[attr-defined]
    ]
    assert {"queued", "processing"} <= set(JobState)


def test_the_series_that_machines_are_counted_by_is_told() -> None:
    nothing: dict[str, Any] = {field.name: 0 if "webhooks" in field.name else {} for field in fields(Census)}
    told, _ = to_text(Census(**nothing | {"jobs": {("flux-dev", "queued"): 3}}), {}, "")

    assert 'imagefleet_jobs{model="flux-dev",state="queued"} 3.0' in told.decode()


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
        "machine-flux": 1,
        "machine-nodes": 1,
    }
