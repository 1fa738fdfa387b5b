"""Machines of other versions: what those of version 1 say is taken as it was, and one that is too old is told so.

`golden/protocol_v1` holds what real machines of version 1 sent when it was settled, and what they were answered. These
files are never written anew: a difference here is a machine out there that no longer works.
"""

import json
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest

from app.core import protocol
from app.core.fleet import Fleet
from app.core.tables import Machine
from tests.api.test_golden_v1 import AN_ID
from tests.builders import BOOT, MACHINE, a_machine, a_running_job, let_pass, the_job
from tests.support.fakes import Clock
from tests.support.web import Client

GOLDEN = Path(__file__).parent / "golden" / "protocol_v1"
CHECK_IN = "/machines/v1/check-in"
MADE_HERE = ("created_at", "updated_at")
IN_OLD_WORDS = {"machine_id": MACHINE, "boot_id": BOOT, "version": "0.0.9", "models": {"what": "nobody knows today"}}


class Replay:
    """Sends again what was recorded; ids that this server gives out stand in the place of those given out then."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._ids: dict[str, str] = {}

    def send(self, step: dict[str, Any]) -> None:
        """Send one request, and hold the answer against the recorded one."""
        method, path = self._today(step["request"]).split()
        body = step.get("body", {})
        sent: dict[str, Any] = {"query_string": step["query"]} if "query" in step else {}
        if "json" in body:
            sent["json"] = json.loads(self._today(json.dumps(body["json"])))
        elif body:
            sent |= {"data": b64decode(body["base64"]), "content_type": body["type"]}
        answer = self._client.open(path, method=method, **sent)
        assert answer.status_code == step["status"], (step["request"], answer.text)
        recorded = step["answer"]
        if "base64" in recorded:
            assert answer.data == b64decode(recorded["base64"])
        else:
            self._hold(answer.json, recorded, step["request"])

    def _hold(self, found: Any, recorded: Any, where: str) -> None:
        """Everything that was there must be there, as it was; what is new is let be, as machines do."""
        if isinstance(recorded, dict):
            assert recorded.keys() <= found.keys(), where
            for name, value in recorded.items():
                self._hold(found[name], value, f"{where}: {name}")
        elif isinstance(recorded, list):
            assert len(found) == len(recorded), where
            for one, other in zip(found, recorded, strict=True):
                self._hold(one, other, where)
        elif isinstance(recorded, str) and AN_ID.fullmatch(recorded) and recorded not in self._ids:
            self._ids[recorded] = found
        elif where.rpartition(": ")[2] not in MADE_HERE:
            assert found == (self._today(recorded) if isinstance(recorded, str) else recorded), where

    def _today(self, text: str) -> str:
        return AN_ID.sub(lambda told: self._ids.get(told[0], told[0]), text)


@pytest.mark.parametrize("session", sorted(path.stem for path in GOLDEN.glob("*.json")))
def test_machines_of_version_1_go_on_working(client: Client, clock: Clock, session: str) -> None:
    replay = Replay(client)

    for step in json.loads((GOLDEN / f"{session}.json").read_text(encoding="utf-8")):
        clock.advance(0.001)
        replay.send(step)


def test_every_route_that_machines_ask_is_among_what_was_recorded(client: Client) -> None:
    steps = [step for path in GOLDEN.glob("*.json") for step in json.loads(path.read_text(encoding="utf-8"))]
    adapter = client.application.url_map.bind("localhost")

    asked = {adapter.match(path, method)[0] for method, path in (step["request"].split() for step in steps)}

    known = {rule.endpoint for rule in client.application.url_map.iter_rules() if rule.rule.startswith("/machines/")}
    assert known - asked == set()


def test_what_a_newer_machine_says_more_is_let_be(client: Client) -> None:
    more = {"weather": "fair", "holdings": [{"model_id": "m", "state": "ready", "mood": "good"}], "engines": []}

    answer = client.post(CHECK_IN, json={"machine_id": MACHINE, "boot_id": BOOT, **more})

    assert answer.status_code == 200


def test_a_machine_that_is_too_old_is_told_so_and_shown_so(
    client: Client, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "OLDEST", 2)
    monkeypatch.setattr(protocol, "SPOKEN", 3)

    unsaid = client.post(CHECK_IN, json=IN_OLD_WORDS)
    said = client.post(f"/machines/v1/jobs/{'0' * 8}-0000-0000-0000-{'0' * 12}/claim", headers={protocol.HEADER: "1"})

    assert (unsaid.status_code, unsaid.json["code"]) == (426, "machine_too_old")
    assert unsaid.json["facts"] == {"protocol": 1, "oldest": 2, "newest": 3}
    assert (said.status_code, said.json) == (426, unsaid.json)
    shown = client.get(f"/v1/machines/{MACHINE}").json
    assert (shown["alive"], shown["version"], shown["sick"]) == (True, "0.0.9", unsaid.json["message"])
    assert "speaks version 1" in shown["sick"]
    assert "takes 2 to 3; upgrade the machine" in shown["sick"]


def test_a_machine_that_became_too_old_loses_what_it_drew_and_is_welcome_once_upgraded(
    client: Client, fleet: Fleet, clock: Clock
) -> None:
    job = a_running_job(fleet)
    let_pass(fleet, clock, fleet.limits.claim_grace + 1)

    refused = client.post(CHECK_IN, json=IN_OLD_WORDS, headers={protocol.HEADER: "0"})
    shown = client.get(f"/v1/machines/{MACHINE}").json
    a_machine(fleet, boot_id="upgraded")

    assert refused.status_code == 426
    assert (shown["models"], shown["jobs"]) == ([], [])
    assert the_job(fleet, job.id).attempts[0].state == "lost"
    with fleet.reading() as session:
        assert session.get_one(Machine, MACHINE).sick is None


def test_a_machine_that_is_too_new_is_told_to_wait_for_the_server(client: Client) -> None:
    answer = client.post(CHECK_IN, json=IN_OLD_WORDS, headers={protocol.HEADER: str(protocol.SPOKEN + 1)})

    assert (answer.status_code, answer.json["code"]) == (426, "machine_too_new")
    assert "upgrade the server first" in answer.json["message"]


@pytest.mark.parametrize("told", ["", "one", "-1", "1.0", "٣", "1" * 10])
def test_a_version_that_is_no_number_is_refused(client: Client, told: str) -> None:
    answer = client.post(CHECK_IN, json=IN_OLD_WORDS, headers={protocol.HEADER: told.encode().decode("latin-1")})

    assert (answer.status_code, answer.json["code"]) == (422, "invalid")


@pytest.mark.parametrize("who", [{}, {"machine_id": "no name\n", "boot_id": BOOT}, ["not", "a", "body"]])
def test_nobody_is_shown_whose_name_cannot_be_read(client: Client, who: Any) -> None:
    answer = client.post(CHECK_IN, json=who, headers={protocol.HEADER: "0"})

    assert answer.status_code == 426
    assert client.get("/v1/machines").json["machines"] == []
