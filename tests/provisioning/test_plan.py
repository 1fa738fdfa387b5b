"""``--plan`` says what would be done and whether it would work, and does nothing."""

import os
from pathlib import Path

import pytest

from provisioning.settings import Settings
from tests.provisioning.conftest import MIB, Fleet, environment, run_process, some_bytes
from tests.provisioning.hub import serve_repository
from tests.provisioning.origin import Origin

BODY = some_bytes(2 * MIB)


@pytest.fixture
def env(settings: Settings) -> dict[str, str]:
    return environment(settings)


def test_a_plan_names_bytes_order_disk_and_minutes_and_touches_nothing(
    origin: Origin,
    fleet: Fleet,
    env: dict[str, str],
    settings: Settings,
) -> None:
    fleet.add("a", origin.serve("/a", BODY) + "?token=secret", BODY, dependencies=["vae"])
    fleet.add("vae", origin.serve("/vae", BODY), BODY, save_path="vae/vae.bin")

    ended = run_process("a", "--plan", "--json", env=env)

    plan = ended.events[0]
    assert ended.code == 0
    assert [each["model"] for each in plan["models"]] == ["vae", "a"]
    assert plan["bytes_to_fetch"] == 2 * len(BODY)
    assert plan["disk_free"] - plan["disk_free_after"] == 2 * len(BODY)
    assert plan["works"] == ["a"]
    assert "secret" not in ended.out
    assert not settings.models_dir.exists()


def test_a_plan_says_what_would_fail_and_its_exit_code_whether_it_would_work(
    origin: Origin,
    fleet: Fleet,
    env: dict[str, str],
) -> None:
    fleet.add("good", origin.serve("/good", BODY), BODY)
    fleet.add("gone", f"{origin.url}/gone", BODY)
    fleet.add("gated", origin.serve("/gated", BODY), BODY, auth_required=True, auth_provider="huggingface")
    fleet.add("outside", origin.serve("/outside", BODY), BODY, save_path="../x")
    fleet.add("needy", origin.serve("/needy", BODY), BODY, dependencies=["gone"])
    huge = os.statvfs("/").f_blocks * os.statvfs("/").f_frsize * 4
    fleet.add("huge", origin.serve("/huge", BODY, ranges=False), BODY, size_bytes=huge)
    env["HF_ENDPOINT"] = origin.url

    partly = run_process("good", "gone", "gated", "outside", "needy", "goood", "--plan", env=env)
    none = run_process("gone", "--plan", env=env)

    assert (partly.code, none.code) == (3, 1)
    for code in ("gone_upstream", "needs_token", "unsafe_path", "not_found"):
        assert code in partly.out
    assert "HF_TOKEN" in partly.out
    assert "did you mean good" in partly.out


def test_a_plan_knows_what_is_here(origin: Origin, fleet: Fleet, env: dict[str, str]) -> None:
    fleet.add("a", origin.serve("/a", BODY), BODY)
    run_process("a", env=env)

    ended = run_process("a", "--plan", "--json", env=env)

    assert ended.code == 0
    assert ended.events[0]["models"][0]["here"] is True
    assert ended.events[0]["bytes_to_fetch"] == 0


def test_a_plan_adds_up_the_files_of_a_repository(origin: Origin, fleet: Fleet, env: dict[str, str]) -> None:
    serve_repository(origin, "o/n", {"config.json": b"{}", "w.safetensors": BODY})
    fleet.add("a", "hf://o/n", None)

    ended = run_process("a", "--plan", "--json", env={**env, "HF_ENDPOINT": origin.url})

    assert ended.events[0]["bytes_to_fetch"] == len(BODY) + 2


def test_a_plan_without_an_api_says_so(env: dict[str, str], tmp_path: Path) -> None:
    ended = run_process("a", "--plan", env={**env, "FLEET_URL": "http://127.0.0.1:9"})

    assert ended.code == 1
    assert "FLEET_URL" in ended.out
