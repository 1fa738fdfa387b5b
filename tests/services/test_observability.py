"""What operators see of a running fleet: metrics of several processes, lines with ids, one trace, and Flower."""

import base64
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psutil
import pytest
import requests
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from tests.support.otlp import Traces, receiving_traces
from tests.support.processes import ROOT, free_port, wait_until
from tests.support.receiver import Receiver, a_receiver, wait_for
from tests.support.servers import ANSWER_SECONDS, LOOK_SECONDS
from tests.support.system import System, running_system

MODEL = "the-model"
PROMPT = "a heron that nobody but its client may read of"
CLIENT_TOKEN, MACHINE_TOKEN, HOOK_SECRET = "a-client-to-be-kept", "a-machine-to-be-kept", "whsec_" + "c2VjcmV0" * 4
FLOWER_LOGIN = ("operator", "a-password-to-be-kept")


@dataclass(slots=True)
class Watched:
    """A fleet that has drawn a picture and told a webhook of it, seen from everywhere."""

    system: System
    traces: Traces
    receiver: Receiver
    flower_url: str
    job_id: str
    request_id: str

    def scrape(self, **headers: str) -> str:
        """Read /metrics."""
        answer = requests.get(f"{self.system.url}/metrics", headers=headers, timeout=ANSWER_SECONDS)
        assert answer.ok, answer.text
        return answer.text

    def number(self, name: str, **labels: str) -> float | None:
        """Return one sample; None where there is none yet."""
        found = text_string_to_metric_families(self.scrape())
        samples = [sample for family in found for sample in family.samples]
        return next((s.value for s in samples if s.name == name and labels.items() <= s.labels.items()), None)

    def wait_for(self, is_right: Callable[[float], bool], name: str, **labels: str) -> None:
        """Wait until a sample is there and right: each web process tells what it has counted some seconds ago."""

        def look() -> bool:
            found = self.number(name, **labels)
            return found is not None and is_right(found)

        wait_until(look, f"{name} {labels} is there and right")

    def lines(self, part: str) -> list[dict[str, Any]]:
        """Return what a part has logged, without a line that is being written."""
        process = self.system.parts[part].process
        assert process is not None
        whole = process.said().rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines() if line.strip()]

    def wait_for_lines(self, part: str, **about: Any) -> list[dict[str, Any]]:
        """Wait until a part has logged something about somebody, and return all such lines."""

        def look() -> list[dict[str, Any]]:
            return [line for line in self.lines(part) if about.items() <= line.items()]

        return wait_until(look, f"{part} says something about {about}")

    def flower(self, path: str) -> Any:
        """Ask Flower's API."""
        answer = requests.get(f"{self.flower_url}/{path}", auth=FLOWER_LOGIN, timeout=ANSWER_SECONDS)
        assert answer.ok, answer.text
        return answer.json()


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Start everything, order a picture, and wait for its webhook."""
    folder = tmp_path_factory.mktemp("watched")
    told = {
        "LOG_FORMAT": "json",
        "API_TOKENS": CLIENT_TOKEN,
        "MACHINE_TOKEN": MACHINE_TOKEN,
        "SECRET_KEY": "a-key-to-be-kept",
        "WEBHOOK_ALLOW_PRIVATE": "1",
        "WEB_WORKERS": "2",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    with (
        a_receiver() as receiver,
        receiving_traces() as traces,
        running_system(folder, **told, OTEL_EXPORTER_OTLP_ENDPOINT=traces.url) as system,
    ):
        port = free_port()
        login = {"FLOWER_BASIC_AUTH": ":".join(FLOWER_LOGIN)}
        options = ("--address=127.0.0.1", f"--port={port}", "--url-prefix=flower")
        system.add("flower", "celery", "--app=app.flower", "flower", *options, **login)
        system.put_model(MODEL)
        system.add_machine("machine-1", MODEL)
        system.wait_for_machines(MODEL, 1)
        hook = {"url": receiver.url, "secret": HOOK_SECRET}
        body = {"model_id": MODEL, "prompt": PROMPT, "webhook": hook}
        headers = {"Authorization": f"Bearer {CLIENT_TOKEN}", "X-Request-Id": "the-order"}
        answer = requests.post(f"{system.url}/v1/jobs", json=body, headers=headers, timeout=ANSWER_SECONDS)
        job_id = answer.json()["job_id"]
        assert system.ended(job_id)["status"] == "completed"
        wait_for(receiver, 1)
        flower_url = f"http://127.0.0.1:{port}/flower"
        wait_until(lambda: _answers(f"{flower_url}/healthcheck"), "Flower answers")
        yield Watched(system, traces, receiver, flower_url, job_id, "the-order")


@contextmanager
def held(process: psutil.Process) -> Iterator[None]:
    """Let a process stand still for the length of the block."""
    process.suspend()
    try:
        yield
    finally:
        process.resume()


def names_in(expression: str) -> set[str]:
    """Return the names of our metrics that an expression asks for."""
    return set(re.findall(r"\bimagefleet[_:][a-z0-9_:]+", expression))


def test_all_that_rules_alerts_and_the_board_ask_for_is_in_a_real_scrape(watched: Watched) -> None:
    folder = ROOT / "deploy" / "prometheus"
    rules = [
        rule
        for name in ("rules.yml", "alerts.yml")
        for group in yaml.safe_load((folder / name).read_text())["groups"]
        for rule in group["rules"]
    ]
    board = json.loads((ROOT / "deploy" / "grafana" / "dashboards" / "imagefleet.json").read_text())
    asked = [rule["expr"] for rule in rules]
    asked += [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    asked += [each["query"]["query"] for each in board["templating"]["list"] if each["type"] == "query"]
    endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}

    recorded = {rule["record"] for rule in rules if "record" in rule}
    wanted = {name for expression in asked for name in names_in(expression)}
    missing = set(wanted)

    def is_all_told() -> bool:
        scrape = watched.scrape(Accept="application/openmetrics-text; version=1.0.0")
        families = list(openmetrics(scrape))  # type: ignore[no-untyped-call]  # it has no types
        told = {family.name + ending for family in families for ending in endings[family.type]}
        missing.clear()
        missing.update(wanted - told - recorded)
        return not missing

    assert len(wanted) > 25
    with suppress(AssertionError):  # what is missing says more
        wait_until(is_all_told, "each part has told what it measures")
    assert missing == set()


def test_a_drawn_picture_is_in_the_numbers(watched: Watched) -> None:
    watched.wait_for(some, "imagefleet_jobs_ended_total", model=MODEL, dialect="v1", state="completed")
    watched.wait_for(some, "imagefleet_pipeline_lookups_total", result="miss")
    watched.wait_for(some, "imagefleet_webhook_deliveries_total", state="delivered")
    watched.wait_for(some, "imagefleet_phase_seconds_count", phase="denoising")
    watched.wait_for(lambda found: found == 1, "imagefleet_model_machines", model=MODEL, state="ready")
    watched.wait_for(lambda found: found > 10**6, "imagefleet_downloaded_bytes_total")
    watched.wait_for(lambda found: found >= 0, "imagefleet_device_memory_bytes", machine="machine-1", kind="total")
    watched.wait_for(lambda found: found < 60, "imagefleet_part_silent_seconds", part="control")


def some(found: float) -> bool:
    """Say whether something was counted."""
    return found >= 1


def test_what_each_of_several_web_processes_has_measured_is_told_by_all(watched: Watched) -> None:
    web = watched.system.parts["web"].tree()[1:]
    assert len(web) == 2
    before = watched.number("imagefleet_batch_lookup_seconds_count") or 0.0

    for process in web:
        with held(process):  # the other one answers
            for _ in range(5):
                watched.system.post("api/models/batch", {"model_ids": [MODEL]})

    # Whichever answers, it has measured half of them itself.
    watched.wait_for(lambda found: found >= before + 10, "imagefleet_batch_lookup_seconds_count")


def test_every_line_of_every_part_is_json(watched: Watched) -> None:
    for part in ("web", "control", "beat", "machine-1"):
        lines = watched.lines(part)

        assert all({"at", "message"} <= line.keys() or "event" in line for line in lines), part
        if part != "beat":  # it says nothing while all is well
            assert lines, part


def test_a_server_says_where_it_listens_and_what_stands_behind(watched: Watched) -> None:
    (up,) = [line for line in watched.lines("web") if line["message"].startswith("listening on ")]

    assert up["message"].startswith(f"listening on {watched.system.url} with ")
    assert "; broker redis://127.0.0.1:" in up["message"]
    assert ", database postgresql, " in up["message"]


def test_lines_have_the_ids_of_what_they_concern(watched: Watched) -> None:
    refused = {"Authorization": "Bearer wrong", "X-Request-Id": "the-refused"}
    requests.get(f"{watched.system.url}/v1/jobs", headers=refused, timeout=ANSWER_SECONDS)
    wait_until(lambda: [x for x in watched.lines("web") if x.get("request_id") == "the-refused"], "the web has said it")

    def said(part: str, is_meant: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        about = watched.wait_for_lines(part, job_id=watched.job_id)
        return [line for line in about if is_meant(line)]

    (ended,) = wait_until(lambda: said("machine-1", lambda line: "ended" in line["message"]), "its end is told")
    assert (ended["attempt"], ended["machine_id"], ended["part"]) == (1, "machine-1", "worker")
    brought = [line for line in watched.lines("machine-1") if line.get("part") == "provision"]
    assert {line["machine_id"] for line in brought} == {"machine-1"}
    assert MODEL in {line.get("model") for line in brought}
    (delivered,) = wait_until(lambda: said("control", lambda line: "delivery_id" in line), "the delivery is told")
    assert delivered["level"] == "info"


def test_neither_prompts_nor_secrets_are_in_any_line(watched: Watched) -> None:
    said = {name: part.process.said() for name, part in watched.system.parts.items() if part.process is not None}

    for name, text in said.items():
        for secret in (PROMPT, CLIENT_TOKEN, MACHINE_TOKEN, HOOK_SECRET, "a-key-to-be-kept", FLOWER_LOGIN[1]):
            assert secret not in text, name


def test_one_trace_goes_from_the_request_to_the_machine_and_to_the_webhook(watched: Watched) -> None:
    def the_order() -> Any:
        ordered = [span for span in list(watched.traces.spans) if span.name == "POST /v1/jobs"]
        return ordered[0] if ordered else None

    trace_id = wait_until(the_order, "the web has sent its span").trace_id
    wanted = {
        ("imagefleet-web", "POST /v1/jobs"),
        ("imagefleet-machine", "imagefleet.generate"),
        ("imagefleet-web", "POST /machines/v1/jobs/<uuid:job_id>/claim"),
        ("imagefleet-machine", "draw"),
        ("imagefleet-web", "PUT /machines/v1/jobs/<uuid:job_id>/attempts/<int:number>/images/<int:position>"),
        ("imagefleet-machine", "bring home"),
        ("imagefleet-web", "POST /machines/v1/jobs/<uuid:job_id>/attempts/<int:number>/finish"),
        ("imagefleet-control", "imagefleet.deliver"),
        ("imagefleet-control", "webhook"),
    }

    def is_whole() -> bool:
        spans = watched.traces.of(trace_id)
        known = {span.span_id for span in spans}
        have_come = all(span.parent_id in known for span in spans if span.parent_id)  # those of each span's beginning
        return have_come and wanted <= {(span.service, span.name) for span in spans}

    wait_until(is_whole, "all spans have come")

    spans = watched.traces.of(trace_id)
    known = {span.span_id for span in spans}
    assert [span.name for span in spans if not span.parent_id] == ["POST /v1/jobs"]
    assert all(span.parent_id in known for span in spans if span.parent_id)
    (drawn,) = [span for span in spans if span.name == "draw"]
    assert drawn.about["imagefleet.job_id"] == watched.job_id
    assert drawn.about["imagefleet.denoising_seconds"] >= 0
    assert watched.receiver.got[0].headers["traceparent"].split("-")[1] == trace_id
    assert PROMPT not in repr(watched.traces.spans)
    machine = [line for line in watched.lines("machine-1") if line.get("job_id") == watched.job_id]
    assert {line["trace_id"] for line in machine if "trace_id" in line} == {trace_id}


def test_flower_wants_its_password(watched: Watched) -> None:
    assert requests.get(f"{watched.flower_url}/api/workers", timeout=ANSWER_SECONDS).status_code == 401
    token = base64.b64encode(b"operator:wrong").decode()
    headers = {"Authorization": f"Basic {token}"}
    assert requests.get(f"{watched.flower_url}/workers", headers=headers, timeout=ANSWER_SECONDS).status_code == 401


def test_flower_shows_workers_and_their_queues_by_names_that_make_sense(watched: Watched) -> None:
    def queues() -> dict[str, set[str]]:
        workers = watched.flower("api/workers?refresh=1")
        return {
            name.partition("@")[0] + "@": {queue["name"] for queue in told.get("active_queues", [])}
            | ({name.partition("@")[2]} if name.startswith("machine@") else set())
            for name, told in workers.items()
        }

    wanted = {"machine@": {f"model.{MODEL}", "machine.machine-1", "machine-1"}, "control@": {"control", "webhooks"}}
    wait_until(lambda: queues() == wanted, "Flower has asked the workers")

    def answered() -> list[set[str]]:
        return [{"conf", "registered", "stats"} - told.keys() for told in watched.flower("api/workers").values()]

    wait_until(lambda: answered() == [set(), set()], "every worker has said how it is configured and what it has done")

    waiting = {each["name"] for each in watched.flower("api/queues/length")["active_queues"]}
    assert {f"model.{MODEL}", "control", "webhooks"} <= waiting


def test_flower_shows_tasks_without_what_is_drawn(watched: Watched) -> None:
    order = {"model_id": MODEL, "prompt": PROMPT}
    job_id = watched.system.post("v1/jobs", order)["job_id"]
    watched.system.ended(job_id)

    def the_task() -> Any:
        found = watched.flower("api/tasks?limit=1000").values()
        return next((t for t in found if job_id in str(t.get("args")) and t["state"] == "SUCCESS"), None)

    task = wait_until(the_task, "Flower has heard of the task")

    assert task["name"] == "imagefleet.generate"
    assert task["worker"] == "machine@machine-1"
    assert PROMPT not in json.dumps(watched.flower("api/tasks?limit=1000"))
    page = requests.get(f"{watched.flower_url}/task/{task['uuid']}", auth=FLOWER_LOGIN, timeout=ANSWER_SECONDS).text
    assert job_id in page
    assert PROMPT not in page


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=LOOK_SECONDS).ok
    except requests.RequestException:
        return False
