"""`imagefleet machine`: names, workers, GPUs, and what a worker process is told."""

import os
from pathlib import Path

import pytest

from app.parse import SettingsError
from app.settings import Settings
from tasks.machine import host
from tasks.machine.app import quiet_libraries


@pytest.fixture
def known(tmp_path: Path) -> Settings:
    """Return the settings of a machine."""
    return Settings(data_dir=tmp_path, broker_url="redis://broker/0", machine_models_needed=("a", "b")).completed()


def test_machines_of_one_host_take_different_names(known: Settings) -> None:
    first, first_lock = host._take_id(known)
    second, second_lock = host._take_id(known)
    os.close(first_lock)
    again, again_lock = host._take_id(known)
    os.close(second_lock)
    os.close(again_lock)

    assert second == f"{first}-2"
    assert again == first


def test_a_name_that_was_chosen_is_not_taken_twice(tmp_path: Path) -> None:
    chosen = Settings(data_dir=tmp_path, machine_id="gpu-7").completed()
    name, lock = host._take_id(chosen)

    with pytest.raises(SettingsError, match="MACHINE_ID"):
        host._take_id(chosen)

    os.close(lock)
    assert name == "gpu-7"


def test_there_is_one_worker_for_each_gpu_and_each_sees_its_own_only(known: Settings) -> None:
    parts = host._workers(known, {"CUDA_VISIBLE_DEVICES": "2, 5"}, "gpu-7")

    seen = [(part.environ["MACHINE_ID"], part.environ["CUDA_VISIBLE_DEVICES"]) for part in parts]
    assert seen == [("gpu-7-0", "2"), ("gpu-7-1", "5")]


@pytest.mark.parametrize("visible", ["", "3"])
def test_one_gpu_or_none_is_one_worker_with_the_machines_name(known: Settings, visible: str) -> None:
    (part,) = host._workers(known, {"CUDA_VISIBLE_DEVICES": visible}, "gpu-7")

    assert part.environ["MACHINE_ID"] == "gpu-7"


def test_a_worker_fetches_nothing_from_a_hub_and_runs_no_code_from_there() -> None:
    told = quiet_libraries({})

    assert told["HF_HUB_OFFLINE"] == told["TRANSFORMERS_OFFLINE"] == "1"
    assert told["DIFFUSERS_DISABLE_REMOTE_CODE"] == "true"
    assert quiet_libraries({"HF_HUB_OFFLINE": "0"})["HF_HUB_OFFLINE"] == "0"


@pytest.mark.parametrize("name", ["DATABASE_URL", "API_TOKENS"])
def test_what_draws_is_given_no_secret_that_it_does_not_need(known: Settings, name: str) -> None:
    environ = {"CUDA_VISIBLE_DEVICES": "", "HOST": "0.0.0.0", name: "postgresql://a-secret"}

    parts = [*host._workers(known, environ, "gpu-7"), host._provisioning(known, environ)]

    assert not [part for part in parts if "a-secret" in str(dict(part.environ))]
    assert Settings.load(parts[0].environ, known.data_dir).host == "127.0.0.1"


def test_no_code_of_others_may_unpickle_more_than_weights_on_a_machine() -> None:
    told = quiet_libraries({"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1", "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "0"})

    assert told["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "1"
    assert "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" not in told


def test_a_machine_gets_none_of_the_servers_secrets(known: Settings) -> None:
    theirs = ("DATABASE_URL", "API_TOKENS", "TOKENS_FILE", "METRICS_TOKEN", "SECRET_KEY")

    told = host._environ(known, dict.fromkeys(theirs, "a-secret"))

    assert not set(theirs) & told.keys()
