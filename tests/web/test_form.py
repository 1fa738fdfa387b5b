"""The form: what a model says about its fields, and what a browser remembers of them."""

from playwright.sync_api import expect

from tests.web.fleet import FIELDS_OPTIONS
from tests.web.studio import Studio, expect_state, words


def test_a_model_with_fixed_steps_sets_the_slider_and_locks_it(studio: Studio) -> None:
    model = studio.fleet.add_model("two-steps", options={"fixed_steps": 2})

    studio.open().choose(model)

    slider = studio.page.locator("#steps")
    expect(slider).to_have_value("2")
    expect(slider).to_be_disabled()
    expect(studio.page.locator("#steps-value")).to_have_text("2")


def test_a_model_with_a_range_of_steps_gives_the_slider_its_limits(studio: Studio) -> None:
    fixed = studio.fleet.add_model("one-step", options={"fixed_steps": 1})
    model = studio.fleet.add_model("ten-to-forty", options={"steps": {"min": 10, "max": 40, "default": 25}})

    studio.open().choose(fixed)
    studio.choose(model)

    slider = studio.page.locator("#steps")
    expect(slider).to_be_enabled()
    expect(slider).to_have_attribute("min", "10")
    expect(slider).to_have_attribute("max", "40")
    expect(slider).to_have_value("25")
    expect(studio.page.locator("#steps-value")).to_have_text("25")


def test_a_model_that_says_nothing_about_steps_gets_twenty_to_fifty(studio: Studio) -> None:
    fixed = studio.fleet.add_model("sixty-steps", options={"fixed_steps": 60})
    model = studio.fleet.add_model("says-nothing")

    studio.open().choose(fixed)
    studio.choose(model)

    slider = studio.page.locator("#steps")
    expect(slider).to_be_enabled()
    expect(slider).to_have_attribute("min", "20")
    expect(slider).to_have_attribute("max", "50")
    expect(slider).to_have_value("30")
    expect(studio.page.locator("#steps-value")).to_have_text("30")


def test_the_number_beside_the_slider_follows_it(studio: Studio) -> None:
    studio.open().choose("fields")

    studio.slide_to(9)

    expect(studio.page.locator("#steps-value")).to_have_text("9")


def test_the_fields_begin_with_what_the_model_says(studio: Studio) -> None:
    studio.open().choose("fields")

    page = studio.page
    expect(page.locator("#width")).to_have_value("192")
    expect(page.locator("#height")).to_have_value("128")
    expect(page.locator("#guidance")).to_have_value(str(FIELDS_OPTIONS["guidance_scale"]))
    expect(page.locator("#scheduler")).to_have_value("Euler a")
    expect(page.locator("#seed")).to_have_value("")
    expect(page.locator("#count")).to_have_value("1")


def test_model_steps_and_all_other_fields_survive_a_reload(studio: Studio) -> None:
    given = {
        "prompt": "a heron",
        "negative-prompt": "fog",
        "width": "256",
        "height": "64",
        "guidance": "3.5",
        "seed": "7",
    }
    studio.open().choose("fields")
    studio.slide_to(17)
    for name, value in given.items():
        studio.page.locator(f"#{name}").fill(value)
    studio.page.locator("#scheduler").select_option("Heun")

    studio.page.reload()

    expect(studio.page.locator("#model")).to_have_value("fields")
    expect(studio.page.locator("#steps")).to_have_value("17")
    expect(studio.page.locator("#steps-value")).to_have_text("17")
    for name, value in given.items():
        expect(studio.page.locator(f"#{name}")).to_have_value(value)
    expect(studio.page.locator("#scheduler")).to_have_value("Heun")
    assert studio.remembered("lastModelId") == "fields"
    assert studio.remembered("lastStepsValue") == "17"


def test_sending_remembers_the_model_and_the_steps(studio: Studio) -> None:
    studio.open().choose("fields")
    studio.page.evaluate("localStorage.clear()")

    expect_state(studio.send("remember this"), "completed")

    assert studio.remembered("lastModelId") == "fields"
    assert studio.remembered("lastStepsValue") == "4"


def test_remembered_steps_that_the_model_does_not_allow_are_not_taken(studio: Studio) -> None:
    model = studio.fleet.add_model("three-to-six", options={"steps": {"min": 3, "max": 6, "default": 5}})
    studio.open().choose(model)
    studio.page.evaluate("localStorage.setItem('lastStepsValue', '40')")

    studio.page.reload()

    expect(studio.page.locator("#model")).to_have_value(model)
    expect(studio.page.locator("#steps")).to_have_value("5")


def test_the_state_of_the_model_stands_beside_it_in_words(studio: Studio) -> None:
    absent = studio.fleet.add_model("held-by-nobody")
    status = studio.open().page.locator("#model-status")

    for model, said in (
        ("fields", "Ready on 1 machine"),
        ("slow", "Downloading"),
        ("damaged", "Error"),
        (absent, "Absent"),
    ):
        studio.choose(model)
        expect(status).to_contain_text(said)


def test_a_proportion_fills_both_sides_and_can_be_turned(studio: Studio) -> None:
    studio.open().choose("fields")

    studio.page.get_by_role("button", name="16:9").click()
    wide = [studio.page.locator(f"#{side}").input_value() for side in ("width", "height")]
    studio.page.get_by_role("button", name="Swap width and height").click()
    tall = [studio.page.locator(f"#{side}").input_value() for side in ("width", "height")]

    assert int(wide[0]) > int(wide[1])
    assert [int(side) % 8 for side in wide] == [0, 0]
    assert tall == wide[::-1]
    expect(studio.page.get_by_role("button", name="9:16")).to_have_attribute("aria-pressed", "true")


def test_the_seed_of_the_last_job_can_be_taken_again(studio: Studio) -> None:
    again, seed = studio.page.get_by_role("button", name="Again"), studio.page.locator("#seed")
    studio.open().choose("fields")
    expect(again).to_be_disabled()
    expect_state(studio.send("by chance"), "completed")

    again.click()

    job = studio.fleet.get("/v1/jobs?limit=1")["jobs"][0]
    expect(seed).to_have_value(str(job["parameters"]["seed"]))
    studio.page.get_by_role("button", name="Random").click()
    expect(seed).to_have_value("")


def test_without_a_prompt_nothing_is_sent_and_the_page_says_why(studio: Studio) -> None:
    studio.open().choose("fields")

    studio.page.get_by_role("button", name="Generate").click()

    expect(studio.page.get_by_role("alert")).to_have_text(words("write a prompt"))
    expect(studio.page.locator("#prompt")).to_be_focused()
    expect(studio.page.locator("#jobs .card")).to_have_count(0)
