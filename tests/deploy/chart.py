"""The chart, rendered by Helm itself, and the values that its tests give it."""

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.bring_helm import helm
from tests.support.processes import ROOT

CHART = ROOT / "deploy" / "chart"
OLDEST, NEWEST = "1.27", "1.37"

MACHINE = {"name": "flux", "kind": "StatefulSet", "replicas": 2, "models": ["flux-dev", "sdxl-base"], "device": "cuda"}
SCALED = MACHINE | {
    "autoscaling": {"enabled": True, "minReplicas": 0, "maxReplicas": 8, "jobsPerMachine": 2, "cooldownSeconds": 60}
}
DAEMON = {
    "name": "nodes",
    "kind": "DaemonSet",
    "models": ["sdxl-base"],
    "modelCache": {"hostPath": "/var/lib/imagefleet"},
    "env": {"HTTPS_PROXY": "http://proxy:3128"},
    "resources": {"limits": {"nvidia.com/gpu": 1}},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
}
EVERYTHING: dict[str, Any] = {
    "machines": [SCALED, DAEMON],
    "serverEnv": {"PUBLIC_URL": "https://fleet.example.org"},
    "a1111": {"enabled": True},
    "flower": {"enabled": True},
    "monitoring": {
        "serviceMonitor": {"enabled": True},
        "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
        "board": {"enabled": True},
    },
    "keda": {"labels": {"namespace": "fleet"}},
    "networkPolicies": {"downloads": "internet", "webFrom": [{"podSelector": {}}]},
    "web": {"ingress": {"enabled": True, "host": "fleet.example.org", "tlsSecret": "tls"}},
}

Manifest = dict[str, Any]


def template(values: Mapping[str, Any], chart: Path = CHART) -> subprocess.CompletedProcess[str]:
    """Let Helm render the chart; its values are held to values.schema.json."""
    command = [
        str(helm()),
        "template",
        "fleet",
        str(chart),
        "--namespace",
        "fleet",
        "--kube-version",
        OLDEST,
        "--values",
        "-",
    ]
    return subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False)


@cache
def _rendered(values: str) -> Sequence[Manifest]:
    done = template(json.loads(values))
    assert done.returncode == 0, done.stderr
    return [manifest for manifest in yaml.load_all(done.stdout, yaml.CSafeLoader) if manifest]


def rendered(values: Mapping[str, Any] | None = None) -> Sequence[Manifest]:
    """Return what the chart makes of values, laid over its own."""
    return _rendered(json.dumps(values or {}, sort_keys=True))


def of_kind(kind: str, manifests: Sequence[Manifest]) -> dict[str, Manifest]:
    """Return the manifests of a kind, by name without the release's."""
    found = [manifest for manifest in manifests if manifest["kind"] == kind]
    return {manifest["metadata"]["name"].removeprefix("fleet-imagefleet-"): manifest for manifest in found}


def pods(manifests: Sequence[Manifest]) -> dict[str, Manifest]:
    """Return the specifications of all pods, by what makes them."""
    kinds = ("Deployment", "StatefulSet", "DaemonSet", "Job")
    makers = {name: maker for kind in kinds for name, maker in of_kind(kind, manifests).items()}
    return {name: maker["spec"]["template"]["spec"] for name, maker in makers.items()}


def environ(pod: Manifest) -> dict[str, str]:
    """Return a pod's variables; those out of a Secret or of the pod with some value.

    As a kubelet does, it puts the values of variables that stand before into `$(NAME)`.
    """
    given: dict[str, str] = {}
    for each in pod["containers"][0]["env"]:
        value = each.get("value", f"some-{each['name'].lower()}")
        given[each["name"]] = re.sub(r"\$\((\w+)\)", lambda found: given.get(found[1], found[0]), value)
    return given
