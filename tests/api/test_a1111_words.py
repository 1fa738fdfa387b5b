"""Automatic1111's words and what they mean here: samplers, models, infotexts, units of extensions."""

from datetime import UTC, datetime
from typing import Any

import pytest

from app.api.a1111 import translate
from app.api.door import Problem, Refused
from app.api.webui import samplers, titles
from app.api.webui.infotext import infotext, parse
from app.api.webui.refusals import is_active
from app.core.spec import SCHEDULERS
from app.core.tables import Model

SHA = "0123456789" + "ab" * 27


def a_checkpoint(model_id: str, name: str, digest: str | None = None) -> Model:
    now = datetime(2026, 1, 5, tzinfo=UTC)
    return Model(id=model_id, name=name, hash=digest, save_path=f"checkpoints/{name}", created_at=now, updated_at=now)


@pytest.mark.parametrize(
    ("sampler", "schedule", "scheduler"),
    [
        ("DPM++ 2M Karras", None, "DPM++ 2M Karras"),
        ("DPM++ 2M", "Karras", "DPM++ 2M Karras"),
        ("DPM++ 2M", "karras", "DPM++ 2M Karras"),
        ("DPM++ 2M", "automatic", "DPM++ 2M Karras"),
        ("DPM++ 2M", None, "DPM++ 2M Karras"),
        ("DPM++ 2M", "Uniform", "DPM++ 2M"),
        ("DPM++ 2M", "normal", "DPM++ 2M"),
        ("DPM++ 2M Karras", "Uniform", "DPM++ 2M Karras"),
        ("k_dpmpp_2m", "", "DPM++ 2M Karras"),
        ("euler A", "Automatic", "Euler a"),
        ("k_euler_ancestral", None, "Euler a"),
        ("Euler", None, "Euler"),
        ("DDIM", "Karras", "DDIM"),
        ("PLMS", "Beta", "PLMS"),
        ("DPM++ 2M SDE", "Automatic", "DPM++ 2M SDE Exponential"),
        ("DPM++ 2M SDE Heun Karras", None, "DPM++ 2M SDE Heun Karras"),
        ("DPM++ 3M SDE", "polyexponential", "DPM++ 3M SDE Exponential"),
        ("Euler", "Simple", "Euler SGM Uniform"),
        ("Euler", "SGMUniform", "Euler SGM Uniform"),
        ("DPM2 a", "Align Your Steps", "DPM2 a Align Your Steps"),
        ("k_heun", "kl_optimal", "Heun KL Optimal"),
        ("Euler", "DDIM", "Euler DDIM"),
        ("LCM", "automatic", "LCM"),
    ],
)
def test_a_sampler_is_found_by_any_of_its_names_and_its_schedule(
    sampler: str, schedule: str | None, scheduler: str
) -> None:
    assert samplers.resolve(sampler, schedule).scheduler == scheduler


@pytest.mark.parametrize(("sampler", "schedule"), [("Euler a", "Karras"), ("Euler a Karras", None), ("LCM", "Beta")])
def test_a_schedule_that_a_sampler_cannot_have_is_refused(sampler: str, schedule: str | None) -> None:
    with pytest.raises(Refused) as refused:
        samplers.resolve(sampler, schedule)

    assert refused.value.problem.status == 422


def test_every_scheduler_of_the_core_can_be_asked_for_in_these_words() -> None:
    said = [samplers.choice_of(scheduler) for scheduler in SCHEDULERS]

    assert [samplers.resolve(choice.sampler, choice.schedule).scheduler for choice in said] == list(SCHEDULERS)


def test_what_is_listed_can_be_drawn_with_automatic() -> None:
    names = [sampler["name"] for sampler in samplers.samplers_to_json()]
    schedules = [schedule["name"] for schedule in samplers.schedules_to_json()]

    assert all(samplers.resolve(name, "Automatic").scheduler in SCHEDULERS for name in names)
    assert "DPM++ 2M Karras" not in names
    assert schedules == list(samplers.SCHEDULES)


@pytest.mark.parametrize("name", ["DPM fast", "k_dpm_ad", "Restart", "DDIM CFG++", "restart Karras"])
def test_a_sampler_that_nothing_here_has_is_refused_with_the_reason_and_the_nearest(name: str) -> None:
    with pytest.raises(Refused, match=r"nearest|close to it") as refused:
        samplers.resolve(name, None)

    assert refused.value.problem.status == 422


def test_a_model_is_found_by_id_title_file_name_and_hash() -> None:
    first, second = a_checkpoint("one", "one-v2.safetensors", f"sha256:{SHA}"), a_checkpoint("two", "org/two")
    known = [first, second]

    for name in (
        "one",
        "ONE",
        "one-v2",
        "one-v2.safetensors",
        titles.title(first),
        SHA,
        SHA[:10],
        "one [0000000000]",
    ):
        assert titles.match(known, name) is first, name
    for name in ("two", "org/two", " two "):
        assert titles.match(known, name) is second, name
    for name in ("three", "", SHA[:9], "[]", "one-v3.safetensors"):
        assert titles.match(known, name) is None, name


@pytest.mark.parametrize(
    ("unit", "active"),
    [
        ({"args": []}, False),
        ({}, False),
        (None, False),
        ({"args": [False]}, False),
        ({"args": [False, {"ad_model": "face"}]}, False),
        ({"args": [None, 0, ""]}, False),
        ({"args": [{"enabled": False, "module": "canny"}]}, False),
        ({"args": [{}]}, False),
        ({"args": {"enabled": False}}, False),
        ({"args": [{"module": "canny"}]}, True),
        ({"args": [{"enabled": True}]}, True),
        ({"args": [True, 7]}, True),
        ([True], True),
    ],
)
def test_an_extensions_unit_is_active_or_not(unit: Any, active: bool) -> None:
    assert is_active(unit) is active


@pytest.mark.parametrize("prompt", ["a cat", "Steps: many, Size: big", "two\nlines", "", 'a "quoted" cat: {}'])
def test_an_infotext_is_read_as_it_was_written(prompt: str) -> None:
    written = infotext(
        prompt, "blue, red", {"Steps": 20, "Sampler": "Euler a", "Model": "a, b: c", "Seed": 7, "No": None}
    )

    found = parse(written)

    assert found["Prompt"] == prompt
    assert found["Negative prompt"] == "blue, red"
    assert {name: found[name] for name in ("Steps", "Sampler", "Model", "Seed")} == {
        "Steps": "20",
        "Sampler": "Euler a",
        "Model": "a, b: c",
        "Seed": "7",
    }
    assert "No" not in found


def test_a_picture_of_automatic1111_is_read() -> None:
    found = parse(
        "a cat\nNegative prompt: dog\nSteps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.0, Seed: 1, "
        'Size: 512x768, Model hash: 6ce0161689, Model: v1-5, Lora hashes: "fur: 12ab, hat: 34cd", Version: v1.10.1'
    )

    assert (found["Size-1"], found["Size-2"], found["Schedule type"]) == ("512", "768", "Karras")
    assert found["Lora hashes"] == "fur: 12ab, hat: 34cd"


@pytest.mark.parametrize("text", ["a" * 10**6, " " * 10**6, 'a: "' * 250_000, "a b" * 300_000, "\n" * 10**6])
def test_no_text_takes_long_to_read(text: str) -> None:
    parse(text)  # a pattern that goes back over the text for each letter would not end before this test is broken off


@pytest.mark.parametrize(
    ("problem", "body"),
    [
        (Problem(404, "not_found", "nothing at /x"), {"detail": "Not Found"}),
        (Problem(405, "method_not_allowed", "no GET"), {"detail": "Method Not Allowed"}),
        (
            Problem(422, "invalid_request", "steps: no", fields={"steps": ["no"]}),
            {"detail": [{"type": "value_error", "loc": ["body", "steps"], "msg": "no", "input": None}]},
        ),
        (
            Problem(409, "job_ended", "too late"),
            {"error": "HTTPException", "detail": "too late", "body": "", "errors": ""},
        ),
    ],
)
def test_a_problem_is_told_as_automatic1111_tells_it(problem: Problem, body: dict[str, Any]) -> None:
    assert translate.say(problem) == body
