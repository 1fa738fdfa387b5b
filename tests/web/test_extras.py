"""What an order brings along: a picture to begin with and its mask, LoRAs, control pictures, and a dropped file."""

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin
from playwright.sync_api import Request, expect

from tests.web.studio import Studio, expect_drawn, expect_state, words

DROP = """([target, data, name]) => {
    const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name, { type: "image/png" }));
    const drop = new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true });
    document.querySelector(target).dispatchEvent(drop);
}"""

PASTE = """data => {
    const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], "pasted.png", { type: "image/png" }));
    document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true }));
}"""


def a_png(size: tuple[int, int] = (96, 64), colour: str = "teal", **texts: str) -> bytes:
    told = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        told.add_text(name, text)
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG", pnginfo=told)
    return file.getvalue()


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def choose_picture(studio: Studio, data: bytes, field: str = "#begin-file") -> None:
    studio.page.set_input_files(field, {"name": "picture.png", "mimeType": "image/png", "buffer": data})


def begin_with(studio: Studio, data: bytes) -> None:
    """Open the section, and choose a picture."""
    studio.page.locator("#beginning > summary").click()
    choose_picture(studio, data)
    expect(studio.page.locator("#begin-chosen")).to_be_visible()


def is_order(request: Request) -> bool:
    return request.method == "POST" and request.url.endswith("/v1/jobs")


def last_order(studio: Studio) -> dict[str, Any]:
    parameters: dict[str, Any] = studio.fleet.get("/v1/jobs?limit=1")["jobs"][0]["parameters"]
    return parameters


def test_an_order_begins_with_a_picture_that_was_chosen(studio: Studio) -> None:
    studio.open().choose("fields")
    begin_with(studio, a_png((96, 64), "navy"))
    expect_drawn(studio.page.locator("#begin-picture"), 96, 64)
    studio.page.locator("#strength").fill("0.4")
    studio.page.locator("#resize-mode").select_option("stretch")

    expect_state(studio.send("a harbour at night"), "completed")

    order = last_order(studio)
    assert (order["strength"], order.get("resize_mode", "stretch")) == (0.4, "stretch")
    assert len(order["image"]) == 64


def test_a_picture_is_taken_by_drop_and_by_paste_and_can_be_removed(studio: Studio) -> None:
    page = studio.open().page
    page.locator("#beginning > summary").click()
    page.evaluate(DROP, ["#begin-drop", in_base64(a_png((80, 40), "olive")), "a.png"])
    expect_drawn(page.locator("#begin-picture"), 80, 40)

    page.evaluate(PASTE, in_base64(a_png((40, 80), "maroon")))
    expect_drawn(page.locator("#begin-picture"), 40, 80)
    page.locator("#begin-remove").click()

    expect(page.locator("#begin-chosen")).to_be_hidden()
    expect(page.locator("#begin-empty")).to_be_visible()


def test_the_size_can_follow_the_picture(studio: Studio) -> None:
    studio.open().choose("fields")
    begin_with(studio, a_png((200, 50)))
    expect_drawn(studio.page.locator("#begin-picture"), 200, 50)

    studio.page.locator("#begin-shape").click()

    width, height = (int(studio.page.locator(f"#{side}").input_value()) for side in ("width", "height"))
    assert 3.4 < width / height < 4.6
    assert (width % 8, height % 8) == (0, 0)


def test_what_is_painted_is_the_mask_of_the_order(studio: Studio) -> None:
    studio.open().choose("fields")
    page = studio.page
    begin_with(studio, a_png((300, 200), "white"))
    page.locator("#mask-paint").click()
    canvas = page.locator("#mask-canvas")
    expect(canvas).to_have_js_property("width", 300)
    place = canvas.bounding_box()
    assert place is not None
    page.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    page.mouse.down()
    page.mouse.move(place["x"] + place["width"] / 2 + 4, place["y"] + place["height"] / 2)
    page.mouse.up()

    page.locator("#mask-save").click()
    expect(page.locator("#mask-remove")).to_be_visible()
    expect_state(studio.send("a sun"), "completed")

    mask = last_order(studio)["mask"]
    drawn = page.evaluate(
        """async id => {
            const bitmap = await createImageBitmap(await (await fetch(`/v1/inputs/${id}`)).blob());
            const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
            canvas.getContext("2d").drawImage(bitmap, 0, 0);
            const at = (x, y) => canvas.getContext("2d").getImageData(x, y, 1, 1).data[0];
            return [bitmap.width, bitmap.height, at(150, 100), at(10, 10), at(290, 190)];
        }""",
        mask["image"],
    )
    assert drawn == [300, 200, 255, 0, 0]


def test_an_empty_mask_is_none(studio: Studio) -> None:
    studio.open().choose("fields")
    begin_with(studio, a_png())
    studio.page.locator("#mask-paint").click()
    expect(studio.page.locator("#mask-canvas")).to_have_js_property("width", 96)
    studio.page.get_by_role("button", name="All", exact=True).click()
    studio.page.get_by_role("button", name="Invert").click()

    studio.page.locator("#mask-save").click()

    expect(studio.page.locator("#mask-dialog")).to_be_hidden()
    expect(studio.page.locator("#mask-remove")).to_be_hidden()


def test_what_an_order_brings_along_survives_a_reload(studio: Studio) -> None:
    studio.open().choose("fields")
    begin_with(studio, a_png((72, 48), "plum"))
    expect_drawn(studio.page.locator("#begin-picture"), 72, 48)
    studio.page.locator("#strength").fill("0.3")
    studio.page.locator("#strength").dispatch_event("change")

    studio.page.reload()

    expect_drawn(studio.page.locator("#begin-picture"), 72, 48)
    expect(studio.page.locator("#strength-value")).to_have_text("0.30")


def test_a_file_that_is_no_picture_is_refused_in_words(studio: Studio) -> None:
    page = studio.open().page
    page.locator("#beginning > summary").click()

    page.set_input_files("#begin-file", {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"hello"})
    expect(page.locator("#begin-problem")).to_have_text(words("png, jpeg and webp"))
    choose_picture(studio, b"\x89PNG no picture at all")

    expect(page.locator("#begin-problem")).to_be_visible()
    expect(page.locator("#begin-chosen")).to_be_hidden()


def test_loras_of_the_models_base_are_offered_with_a_weight(studio: Studio) -> None:
    fitting = studio.fleet.add_model("pastel", kind="lora")
    page = studio.open().page
    studio.choose("fields")
    page.locator("#lora-section > summary").click()

    page.locator("#lora-add").select_option(fitting)
    page.get_by_label(f"Weight of {fitting}").fill("0.6")
    sent = studio.heard("request")
    page.locator("#prompt").fill("a meadow")
    with page.expect_request(is_order):
        page.get_by_role("button", name="Generate").click()
    expect(studio.card("a meadow")).to_be_visible()

    (order,) = [request.post_data_json for request in sent if is_order(request)]
    assert order["loras"] == [{"model_id": fitting, "weight": 0.6}]
    page.get_by_role("button", name=f"Leave out {fitting}").click()
    expect(page.locator("#loras li")).to_have_count(0)


def test_control_pictures_say_what_they_show(studio: Studio) -> None:
    page = studio.open().page
    page.locator("#control-section > summary").click()
    choose_picture(studio, a_png((64, 64), "black"), "#control-file")
    page.get_by_label("What control picture 1 shows").select_option("depth")
    page.get_by_label("Weight of control picture 1").fill("0.5")
    page.locator("#cut-out").check()
    sent = studio.heard("request")

    page.locator("#prompt").fill("a dancer")
    with page.expect_request(is_order):
        page.get_by_role("button", name="Generate").click()
    expect(studio.card("a dancer")).to_be_visible()

    (order,) = [request.post_data_json for request in sent if is_order(request)]
    (control,) = order["controls"]
    assert (control["kind"], control["weight"], control["annotate"]) == ("depth", 0.5, False)
    assert order["remove_background"] is True


def test_one_of_our_pictures_dropped_on_the_page_fills_the_form(studio: Studio, tmp_path: Path) -> None:
    studio.open().choose("fields")
    expect_state(studio.send("a lighthouse", seed="77", width="128", height="64"), "completed")
    image = studio.fleet.get("/v1/jobs?limit=1")["jobs"][0]["images"][0]
    ours = studio.page.request.get(image["url"]).body()
    studio.page.locator("#prompt").fill("something else")
    studio.page.locator("#seed").fill("")

    studio.page.evaluate(DROP, ["#gallery", in_base64(ours), "ours.png"])

    expect(studio.page.locator("#prompt")).to_have_value("a lighthouse")
    expect(studio.page.locator("#seed")).to_have_value("77")
    expect(studio.page.locator("#width")).to_have_value("128")
    expect(studio.page.locator("#height")).to_have_value("64")


def test_a_picture_of_automatic1111_fills_the_form(studio: Studio) -> None:
    studio.open().choose("fields")
    theirs = a_png(
        parameters="an old mill\nNegative prompt: fog, rain\nSteps: 12, Sampler: DPM++ 2M, Schedule type: Karras, "
        "CFG scale: 4.5, Seed: 123, Size: 256x192, Model hash: 0123456789, Model: fields, Version: v1.10.1"
    )

    studio.page.evaluate(DROP, ["main", in_base64(theirs), "theirs.png"])

    expect(studio.page.locator("#prompt")).to_have_value("an old mill")
    fields = {"negative-prompt": "fog, rain", "steps": "12", "scheduler": "DPM++ 2M Karras", "guidance": "4.5"}
    for name, value in {**fields, "seed": "123", "width": "256", "height": "192", "model": "fields"}.items():
        expect(studio.page.locator(f"#{name}")).to_have_value(value)


def test_a_dropped_picture_that_says_nothing_becomes_the_beginning(studio: Studio) -> None:
    page = studio.open().page

    page.evaluate(DROP, ["main", in_base64(a_png((88, 44), "coral")), "plain.png"])

    expect_drawn(page.locator("#begin-picture"), 88, 44)


@pytest.mark.parametrize("name", ["<img src=x onerror=alert(1)>.png"])
def test_names_of_files_are_never_markup(studio: Studio, name: str) -> None:
    page = studio.open().page
    dialogs = studio.heard("dialog")

    page.evaluate(DROP, ["main", in_base64(b"\x89PNG broken"), name])

    expect(page.locator("#form-problem")).to_contain_text("<img src=x")
    assert dialogs == []
