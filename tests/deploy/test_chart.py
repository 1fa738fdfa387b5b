"""The chart holds to the schemas of Kubernetes, and says what the code does."""

import json
import re
import subprocess
from importlib import import_module
from typing import Any

import pytest

from app import healthy
from app.settings import Settings, variables
from tests.deploy.bring_helm import helm
from tests.deploy.chart import (
    CHART,
    DAEMON,
    EVERYTHING,
    MACHINE,
    NEWEST,
    OLDEST,
    Manifest,
    environ,
    of_kind,
    pods,
    rendered,
    template,
)
from tests.deploy.start import PARTS
from tests.support.processes import ROOT

NAMES = ("a1111", "beat", "control", "flower", "machine-flux", "machine-nodes", "migrate", "web")
"""What makes pods: written down, because Helm and the schemas would cost each process that collects tests its time."""


def test_every_pod_of_the_chart_is_looked_at() -> None:
    assert sorted(pods(rendered(EVERYTHING))) == list(NAMES)


def validate(manifest: Manifest, version: str) -> None:
    """Hold a manifest to the schema of a version of Kubernetes; raises what says which field is wrong."""
    import_module("kubernetes_validate").validate(manifest, version, strict=True)


@pytest.mark.parametrize(("values", "version"), [({}, OLDEST), (EVERYTHING, NEWEST)])
def test_every_manifest_holds_to_the_schemas_of_kubernetes(values: dict[str, Any], version: str) -> None:
    foreign = {"ScaledObject", "ServiceMonitor", "PrometheusRule"}

    for manifest in rendered(values):
        if manifest["kind"] not in foreign:
            validate(manifest, version)


def test_a_misspelt_field_would_be_seen() -> None:
    web = json.loads(json.dumps(of_kind("Deployment", rendered())["web"]))
    web["spec"]["template"]["spec"]["containers"][0]["imagePullPolice"] = "Always"

    with pytest.raises(import_module("kubernetes_validate").ValidationError, match="imagePullPolice"):
        validate(web, NEWEST)


# Importing them takes seconds, which every process that collects tests would spend.
@pytest.mark.parametrize(
    ("kind", "module"),
    [
        ("ScaledObject", "cloudcoil.models.keda.v1alpha1"),
        ("ServiceMonitor", "cloudcoil.models.prometheus_operator.v1"),
        ("PrometheusRule", "cloudcoil.models.prometheus_operator.v1"),
    ],
)
def test_what_others_operators_read_holds_to_their_schemas(kind: str, module: str) -> None:
    (told,) = of_kind(kind, rendered(EVERYTHING)).values()
    manifest = json.loads(json.dumps(told))
    if kind == "ScaledObject":
        # Their package is KEDA 2.16's. KEDA 2.17 knows one field more, with these values: Fallback, in
        # apis/keda/v1alpha1/scaledobject_types.go
        assert manifest["spec"]["fallback"].pop("behavior") in {
            *("static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower")
        }
    model = getattr(import_module(module), kind)

    known = model.model_validate(manifest).model_dump(by_alias=True, exclude_unset=True, mode="json")

    assert known["spec"] == manifest["spec"]  # a field that the schema lacks would be missing here


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"machines": [MACHINE | {"modles": []}]}, "modles"),
        ({"machines": [MACHINE | {"kind": "Deployment"}]}, "kind"),
        ({"machines": [MACHINE | {"models": []}]}, "models"),
        ({"networkPolicies": {"downloads": "all"}}, "downloads"),
        ({"wbe": {}}, "wbe"),
        ({"machines": [DAEMON | {"modelCache": {}}]}, "hostPath"),
        ({"machines": [DAEMON | {"autoscaling": {"enabled": True}}]}, "autoscaling"),
        ({"web": {"ingress": {"enabled": True}}}, "web.ingress.host"),
        ({"machines": [MACHINE | {"autoscaling": {"fallback": {"replicas": 0}}}]}, "fallback/replicas"),
        ({"machines": [MACHINE | {"autoscaling": {"fallback": {"behavior": "currentReplicasIfLower"}}}]}, "behavior"),
        ({"monitoring": {"prometheusRules": {"enabled": True}}}, "prometheusRules"),
    ],
)
def test_values_that_cannot_be_meant_are_refused_with_their_name(values: dict[str, Any], why: str) -> None:
    done = template(values)

    assert done.returncode != 0
    assert why in done.stderr


def test_every_default_is_a_value_that_the_schema_knows() -> None:
    done = subprocess.run([str(helm()), "lint", "--strict", str(CHART)], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_a_pod_starts_a_part_that_exists_with_variables_that_somebody_reads(name: str, tmp_path: Any) -> None:
    pod = pods(rendered(EVERYTHING))[name]
    (part,) = pod["containers"][0]["args"]
    given = environ(pod)

    assert part in PARTS
    known = {name for name, _, _ in variables()} | {"NODE_NAME", "FLOWER_BASIC_AUTH", "HTTPS_PROXY"}
    assert given.keys() <= known
    urls = {each: f"redis://{each.lower()}" for each in ("DATABASE_URL", "BROKER_URL") if each in given}
    Settings.load(given | urls, tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_a_pod_has_no_rights_and_writes_nothing_but_its_volumes(name: str) -> None:
    pod = pods(rendered(EVERYTHING))[name]
    (container,) = pod["containers"]

    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]
    assert re.search(r":\d+\.\d+\.\d+$", container["image"])


@pytest.mark.parametrize("name", [name for name in NAMES if name != "migrate"])
def test_a_pod_is_asked_what_the_part_answers(name: str) -> None:
    (container,) = pods(rendered(EVERYTHING))[name]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
    given = environ(pods(rendered(EVERYTHING))[name])
    (part,) = container["args"]

    probes = [container[probe] for probe in ("startupProbe", "livenessProbe", "readinessProbe") if probe in container]

    assert probes
    for probe in probes:
        if "exec" in probe:
            assert probe["exec"]["command"] == ["python", "-m", "app.healthy", part]
            assert part in healthy.PARTS
        else:
            variable = {"web": "PORT", "a1111": "A1111_PORT", "machine": "MACHINE_HEALTH_PORT"}[part]
            assert ports[probe["httpGet"]["port"]] == int(given[variable])
            assert probe["httpGet"]["path"] in ({"/live", "/ready"} if part == "machine" else {"/health", "/ready"})


def test_no_secret_is_rendered_and_none_of_the_servers_reaches_a_machine() -> None:
    assert not of_kind("Secret", rendered(EVERYTHING))
    for name in ("machine-flux", "machine-nodes"):
        told = pods(rendered(EVERYTHING))[name]["containers"][0]["env"]
        secrets = {
            each["name"]: each["valueFrom"]["secretKeyRef"]["name"] for each in told if "secretKeyRef" in str(each)
        }
        assert set(secrets) == {"BROKER_URL", "MACHINE_TOKEN", "HF_TOKEN", "CIVITAI_TOKEN"}
        assert set(secrets.values()) == {"imagefleet-machine"}


def test_beat_is_one_and_the_old_one_is_gone_before_the_new_one_comes() -> None:
    beat = of_kind("Deployment", rendered())["beat"]["spec"]

    assert (beat["replicas"], beat["strategy"]) == (1, {"type": "Recreate"})


def test_the_web_grows_with_its_load_and_never_sinks_below_what_it_had_while_it_is_replaced() -> None:
    web, scaler = (
        of_kind("Deployment", rendered())["web"]["spec"],
        of_kind("HorizontalPodAutoscaler", rendered())["web"],
    )

    assert "replicas" not in web  # or an upgrade would undo what the autoscaler did
    assert scaler["spec"]["scaleTargetRef"]["name"] == "fleet-imagefleet-web"
    assert web["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_the_schema_is_migrated_before_anything_else_of_a_version() -> None:
    job = of_kind("Job", rendered())["migrate"]

    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"


@pytest.mark.parametrize("name", ["web", "a1111", "flower"])
def test_requests_are_taken_until_every_node_knows_that_a_pod_goes(name: str) -> None:
    pod = pods(rendered(EVERYTHING))[name]
    (container,) = pod["containers"]
    word, seconds = container["lifecycle"]["preStop"]["exec"]["command"]

    assert word == "sleep"
    (graceful,) = re.findall(r"^graceful_timeout = (\d+)$", (ROOT / "app" / "server.py").read_text(), re.MULTILINE)
    assert pod["terminationGracePeriodSeconds"] > int(seconds) + int(graceful)


@pytest.mark.parametrize(("name", "processes"), [("web", Settings.web_workers), ("a1111", 1)])
def test_large_pictures_that_come_at_once_do_not_end_a_pod(name: str, processes: int) -> None:
    (container,) = pods(rendered(EVERYTHING))[name]["containers"]
    (limit,) = re.findall(r"^(\d+)Gi$", container["resources"]["limits"]["memory"])

    # app.pictures.AT_ONCE: two in each process, half a gigabyte each. A process alone was measured to take 120 MB.
    assert int(limit) * 2**30 > processes * (120 + 2 * 512) * 2**20
