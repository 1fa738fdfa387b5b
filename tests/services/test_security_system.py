"""A whole running system, looked over by somebody who searches it for secrets and sends it what it must not believe."""

import base64
import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest
import redis
import requests
from celery import Celery

from app.broker import CeleryDispatcher, make_celery
from app.core.dispatch import CONTROL_QUEUE, GENERATE, WEBHOOK_QUEUE, model_queue
from app.settings import Settings
from tests.support.processes import command_of, free_port, wait_until
from tests.support.servers import ANSWER_SECONDS, LOOK_SECONDS, Up

ALICE, BARE, OPS = "alice$s+secret/%41=", "bare'secret\"\\n", "ops{secret}~`!"
RENTED, METRICS, HOOK_KEY = "rented|secret<>", "metrics^secret;", "hook-secret*()"
SECRETS = {
    "alice": ALICE,
    "bare": BARE,
    "ops": OPS,
    "rented": RENTED,
    "metrics": METRICS,
    "webhook": HOOK_KEY,
    "guess": "a-guess-that-is-wrong",
    "machine": "machine&secret?",
    "key": "secret-key-of-the-vault",
    "hub": "hf_secretsecretsecret",
    "civitai": "civitai-secret-secret",
}
DEMO = "demo-shapes"


@dataclass(frozen=True)
class Place:
    """A running server, and all that can be seen of it."""

    up: Up
    folder: Path

    def ask(self, method: str, path: str, token: str | None = None, **more: Any) -> requests.Response:
        """Ask as anybody can."""
        headers = more.pop("headers", {}) | ({"Authorization": f"Bearer {token}"} if token else {})
        return requests.request(method, f"{self.up.url}{path}", headers=headers, timeout=ANSWER_SECONDS, **more)

    def tree(self) -> list[psutil.Process]:
        """Return all its processes."""
        top = psutil.Process(self.up.process.pid)
        return [top, *top.children(recursive=True)]

    def broker_url(self) -> str:
        """Return its broker's address, with the password."""
        return str(self.up.running()["broker_url"])

    def celery(self) -> Celery:
        """Return an app on its broker, as anybody has it who knows the password."""
        return make_celery(Settings(broker_url=self.broker_url()))


def digest(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Run a server that has a secret of every kind, and tells as much in its logs as it can."""
    folder = tmp_path_factory.mktemp("secrets")
    listed = folder / "tokens"
    listed.write_text(f"ops:operator:{OPS}\nrented:machine@gpu-9:{RENTED}\n", encoding="utf-8")
    environ = {
        # Known by their hashes only: what looks after the parts makes itself a token of its own.
        "API_TOKENS": f"alice:client:sha256:{digest(ALICE)},sha256:{digest(BARE)}",
        "TOKENS_FILE": str(listed),
        "MACHINE_TOKEN": SECRETS["machine"],
        "METRICS_TOKEN": METRICS,
        "SECRET_KEY": SECRETS["key"],
        "HF_TOKEN": SECRETS["hub"],
        "CIVITAI_TOKEN": SECRETS["civitai"],
        "WEBHOOK_ALLOW_PRIVATE": "1",
        "DRIVER": "fake",
        "DEVICE": "cpu",
        "LOG_LEVEL": "DEBUG",
        "WEB_WORKERS": "1",
    }
    up = Up(folder / "data", environ=environ)
    up.token = BARE
    try:
        up.wait_until_serving()
        wait_until(lambda: up.holding(DEMO)["state"] == "ready", "the model is ready")
        yield Place(up, folder)
    finally:
        up.process.stop()


def order(place: Place, token: str = ALICE, model_id: str = DEMO, **more: Any) -> Any:
    answer = place.ask("POST", "/v1/jobs", token, json={"model_id": model_id, "prompt": "a red circle", **more})
    assert answer.status_code == 202, answer.text
    return answer.json()


def test_no_secret_is_seen_anywhere(place: Place) -> None:
    told: list[str] = []

    def ask(method: str, path: str, token: str | None = None, **more: Any) -> requests.Response:
        answer = place.ask(method, path, token, **more)
        told.append(f"{answer.headers}{answer.text}")
        return answer

    # What people do, rightly and wrongly, with a token wherever one could be put.
    done = order(place, webhook={"url": f"http://127.0.0.1:{free_port()}/x?k={HOOK_KEY}", "key": HOOK_KEY})
    assert place.up.ended(done["job_id"])["status"] == "completed"
    waiting = {"id": "nowhere", "name": "x", "download_url": "https://origin.invalid/x", "save_path": "checkpoints/x"}
    assert ask("POST", "/v1/models", ALICE, json=waiting).status_code == 403
    assert ask("POST", "/v1/models", OPS, json=waiting).status_code == 201
    order(place, OPS, "nowhere")
    for token in SECRETS.values():
        basic = base64.b64encode(f"user:{token}".encode()).decode()
        ask("GET", "/v1/nothing", headers={"Authorization": f"Basic {basic}"})
        ask("GET", "/a1111/sdapi/v1/nothing", headers={"Authorization": f"Basic {basic}"})
    for path in ("/", "/doc", "/openapi.json", "/ready", "/metrics", "/api/models/nothing", "/v1/jobs", "/status"):
        for shown in (None, ALICE, BARE, OPS, RENTED, METRICS, SECRETS["machine"], SECRETS["guess"]):
            ask("GET", path, shown)
    ask("POST", "/v1/jobs", ALICE, data=b"{", headers={"Content-Type": "application/json"})
    ask("POST", "/machines/v1/check-in", RENTED, json={"machine_id": "gpu-1", "boot_id": "b"})
    assert ask("GET", "/metrics", METRICS).status_code == 200
    job = ask("GET", f"/v1/jobs/{done['job_id']}/deliveries", ALICE).json()
    wait_until(
        lambda: ask("GET", f"/v1/jobs/{done['job_id']}/deliveries", ALICE).json()["deliveries"][0]["tries"], "a try"
    )
    assert job["url"].startswith("http://127.0.0.1:")

    password = place.broker_url().partition("://:")[2].partition("@")[0]
    assert password
    secrets = {**SECRETS, "broker": password}

    seen = {
        "answers": "\n".join(told),
        "log": place.up.process.said(),
        "command lines": "\n".join(" ".join(command_of(process)) for process in place.tree()),
        "broker": everything_in(place.broker_url()),
        "files": "\n".join(everything_below(place.up.folder)),
    }
    found = {(name, where) for name, secret in secrets.items() for where, text in seen.items() if is_in(secret, text)}
    assert found == set()
    # Were nothing looked at, nothing would be found.
    assert "a wrong token from 127.0.0.1" in seen["log"]
    assert "ops: POST /v1/models, answered 201" in seen["log"]
    assert all(len(text) > 100 for text in seen.values())
    assert "nowhere" in seen["broker"]
    assert "gunicorn" in seen["command lines"]


def is_in(secret: str, text: str) -> bool:
    """Say whether a secret stands in a text, also as JSON, an address, base64 or `repr` would write it."""
    forms = {secret, json.dumps(secret)[1:-1], repr(secret)[1:-1], quote(secret, safe="")}
    forms |= {
        base64.b64encode(before + secret.encode()).decode().rstrip("=")[4:-2] for before in (b"user:", b"abcd", b"abc")
    }
    return any(form in text for form in forms)


def everything_in(url: str) -> str:
    """Return all that the broker holds, as text."""
    with redis.Redis.from_url(url, decode_responses=True, encoding_errors="backslashreplace") as connection:
        texts = []
        for key in connection.scan_iter():
            kind = connection.type(key)
            read = {
                "string": connection.get,
                "list": lambda name: connection.lrange(name, 0, -1),
                "set": connection.smembers,
                "hash": connection.hgetall,
                "stream": connection.xrange,
                "zset": lambda name: connection.zrange(name, 0, -1),
            }.get(str(kind))
            assert read is not None or kind == "none", kind
            if read is not None:  # somebody took the last message out of it meanwhile
                texts.append(f"{key} {read(key)}")
    decoded = [
        base64.b64decode(body).decode() for text in texts for body in re.findall(r'"body": ?"([A-Za-z0-9+/=]+)"', text)
    ]
    return "\n".join(texts + decoded)


def everything_below(folder: Path) -> Iterator[str]:
    """Read all files but the two that are secrets and that only their owner can read."""
    for path in [Path(where) / name for where, _, names in os.walk(folder) for name in names]:
        if path.name in {"run.json", "secret.key"}:
            assert path.stat().st_mode & 0o077 == 0
        elif path.is_file() and "models" not in path.parts:
            with suppress(FileNotFoundError):  # of a server that runs some come and go
                yield path.read_bytes().decode("utf-8", "replace")


class Evil:
    """Runs a command where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        """Say how it is made anew."""
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("serializer", ["pickle", "yaml"])
def test_what_is_no_json_is_refused_on_every_queue_and_the_workers_live_on(place: Place, serializer: str) -> None:
    mark = place.folder / "was-run"
    payload: Any = Evil(mark) if serializer == "pickle" else "!!python/object/apply:os.system [true]"
    celery = place.celery()
    workers = {process.pid for process in place.tree() if is_worker(process)}
    assert len(workers) >= 2

    for queue, task in {
        CONTROL_QUEUE: "imagefleet.sweep",
        WEBHOOK_QUEUE: "imagefleet.deliver",
        model_queue(DEMO): GENERATE,
    }.items():
        celery.send_task(task, args=[payload], queue=queue, serializer=serializer, priority=0, ignore_result=True)
    with celery.connection_for_write() as connection:
        producer = connection.Producer(serializer=serializer)
        for exchange, kind, body in (
            ("celery.pidbox", "fanout", {"method": "ping", "arguments": {"x": payload}}),
            ("celery.pidbox", "fanout", payload),
            ("celeryev", "topic", {"type": "worker-heartbeat", "x": payload}),
        ):
            connection.default_channel.exchange_declare(exchange=exchange, type=kind)
            producer.publish(body, exchange=exchange)

    done = order(place)
    assert place.up.ended(done["job_id"])["status"] == "completed"
    wait_until(lambda: len(celery.control.ping(timeout=LOOK_SECONDS, limit=2)) == 2, "both workers answer")
    queues = (CONTROL_QUEUE, WEBHOOK_QUEUE, model_queue(DEMO))
    wait_until(lambda: not any(CeleryDispatcher(celery).depths(queues).values()), "all messages are settled")
    celery.close()
    assert {process.pid for process in place.tree() if is_worker(process)} == workers
    assert not mark.exists()


def is_worker(process: psutil.Process) -> bool:
    """Say whether a process is a Celery worker."""
    words = command_of(process)
    return ("--app=tasks.control.app" in words and "worker" in words) or "tasks.machine" in words


def test_the_broker_is_nobodys_without_its_password(place: Place) -> None:
    address = place.broker_url().rpartition("@")[2]

    with redis.Redis.from_url(f"redis://{address}") as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()


@pytest.mark.parametrize("header", ["SCRIPT_NAME", "PATH_INFO", "Script-Name", "X-Forwarded-Path"])
def test_no_header_changes_which_path_is_asked_for(place: Place, header: str) -> None:
    assert place.ask("GET", "/health", headers={header: "/v1/jobs"}).json() == {"status": "ok"}
    assert place.ask("GET", "/v1/jobs", headers={header: "/health"}).status_code == 401


def test_no_header_changes_what_we_call_ourselves(place: Place) -> None:
    headers = {
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "evil.example.org",
        "Forwarded": "host=evil.example.org",
    }

    job = place.ask("POST", "/v1/jobs", ALICE, json={"model_id": DEMO, "prompt": "a"}, headers=headers)

    assert job.headers["Location"].startswith(f"{place.up.url}/v1/jobs/")
    assert job.headers["Server"] == "gunicorn"
