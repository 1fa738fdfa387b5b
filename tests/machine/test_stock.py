"""What a server has is proven by its own list: who is ready for what, and when no more."""

from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from app.core.fleet import Fleet
from app.core.lifecycle import AttemptState, JobState
from app.settings import Settings
from tasks.machine.client import FleetClient
from tasks.machine.drivers.a1111.errors import NotHere
from tasks.machine.drivers.a1111.wire import Server
from tasks.machine.drivers.automatic1111 import Automatic1111Driver
from tasks.machine.drivers.contract import DriverSettings
from tasks.machine.errors import ModelNotProven
from tasks.machine.sources import warn
from tasks.machine.spool import Spool
from tasks.machine.stock import Stock
from tasks.machine.work import Worker
from tests.builders import BOOT, MACHINE, a_job, a_machine, a_model, the_job, the_model
from tests.support.webui import DREAM, Webui, checkpoint, lora

OTHER = sha256(b"other").hexdigest()


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Nothing here depends on the kind of database."""
    return sqlite_url


@pytest.fixture
def webui() -> Iterator[Webui]:
    """Return an Automatic1111 that listens."""
    found = Webui().open()
    yield found
    found.deaf = False
    found.close()


@pytest.fixture
def worker(stock: Stock, webui: Webui, fleet: Fleet, tmp_path: Path) -> Worker:
    """Return a worker that draws with that server, and has checked in."""
    a_machine(fleet)
    driver = Automatic1111Driver(DriverSettings(server_url=webui.url))
    stock.look()
    return Worker(
        stock.fleet, fleet.live, Spool(tmp_path / "spool"), lambda: driver, stock.files_of, stock.companions_of
    )


@pytest.fixture
def stock(webui: Webui, url: str) -> Stock:
    """Return the eyes of a machine on that server, which tells the real API."""
    return Stock(Server(webui.url), FleetClient(url, "", MACHINE, BOOT))


def states(stock: Stock, *joined: str) -> dict[str, str]:
    return {holding["model_id"]: holding["state"] for holding in stock.holdings(frozenset(joined))}


def test_a_page_in_place_of_the_extension_is_no_extension(stock: Stock, webui: Webui) -> None:
    webui.has_pages = True

    stock.look()

    assert stock.ready() == {"dream"}


def test_controlnets_of_the_extension_are_there_and_known_by_what_they_read(
    stock: Stock, webui: Webui, fleet: Fleet
) -> None:
    webui.controlnets = ("control_v11p_sd15_canny [d14c016b]", "None", "t2i-something")

    stock.look()

    known = the_model(fleet, "control_v11p_sd15_canny")
    assert (known.kind, known.tags) == ("controlnet", ["a1111", "canny"])
    assert the_model(fleet, "t2i-something").tags == ["a1111"]
    files = stock.companions_of(["control_v11p_sd15_canny"], {})
    assert str(files["control_v11p_sd15_canny"].path) == "control_v11p_sd15_canny [d14c016b]"
    assert states(stock)["t2i-something"] == "ready"


def test_nothing_is_ready_before_it_was_listed(stock: Stock) -> None:
    assert stock.ready() == frozenset()
    with pytest.raises(ModelNotProven, match="has no model dream"):
        stock.files_of("dream")


def test_checkpoints_are_ready_and_what_goes_along_is_there(stock: Stock, fleet: Fleet) -> None:
    stock.look()

    assert stock.ready() == {"dream"}
    kinds = {model_id: the_model(fleet, model_id).kind for model_id in states(stock)}
    assert kinds == {
        "dream": "checkpoint",
        "clear.safetensors": "vae",
        "detail": "lora",
        "R-ESRGAN-4x": "upscaler",
        "good": "embedding",
        "bad": "embedding",
    }
    assert states(stock)["dream"] == "verifying"
    assert states(stock, "dream")["dream"] == "ready"
    assert states(stock)["detail"] == "ready"


def test_the_driver_learns_what_the_server_calls_a_model(stock: Stock) -> None:
    stock.look()

    dream, sharp = stock.files_of("dream", "sd15"), stock.files_of("R-ESRGAN-4x")

    assert (str(dream.path), dream.base) == (f"dream.safetensors [{DREAM[:10]}]", "sd15")
    assert dream.proof == DREAM
    assert str(sharp.path) == "R-ESRGAN 4x+"


def test_a_companion_that_the_server_lacks_is_no_reason_to_try_here_again(stock: Stock) -> None:
    stock.look()

    with pytest.raises(NotHere, match="does not have unheard-of"):
        stock.companions_of(["detail", "unheard-of"], {})

    assert list(stock.companions_of(["detail", "good"], {})) == ["detail", "good"]


def test_a_model_that_the_fleet_knows_by_its_hash_has_that_id(stock: Stock, fleet: Fleet) -> None:
    a_model(fleet, "my-dream", hash=f"sha256:{DREAM}")

    stock.look()

    assert stock.ready() == {"my-dream"}


def test_what_comes_and_goes_there_comes_and_goes_here(stock: Stock, webui: Webui) -> None:
    stock.look()
    webui.checkpoints.append(checkpoint("new"))
    stock.look()
    with_both = stock.ready()
    webui.checkpoints = [checkpoint("new", OTHER)]

    with pytest.raises(ModelNotProven, match="no longer has dream"):
        stock.files_of("dream")

    assert with_both == {"dream", "new"}
    assert stock.ready() == {"new"}
    assert stock.files_of("new").proof == OTHER


def test_a_server_that_is_away_proves_nothing_and_says_so_and_comes_back(stock: Stock, webui: Webui) -> None:
    left: list[str] = []
    stock.on_away = lambda: left.append("all")
    stock.look()
    webui.close()
    stock.look()
    while_away = (stock.ready(), stock.holdings(frozenset({"dream"})))
    webui.loras.append(lora("new"))
    webui.open()

    stock.look()

    assert while_away[0] == frozenset()
    assert {h["state"] for h in while_away[1]} == {"error"}
    assert {h["error_code"] for h in while_away[1]} == {"server_away"}
    assert "does not answer" in while_away[1][0]["error"]
    assert left == ["all"]
    assert stock.ready() == {"dream"}
    assert "new" in states(stock)  # whatever was added meanwhile is seen at once


def test_a_job_that_begins_finds_out_that_the_server_is_away(stock: Stock, webui: Webui) -> None:
    left: list[str] = []
    stock.on_away = lambda: left.append("all")
    stock.look()
    webui.close()

    with pytest.raises(ModelNotProven, match="does not answer"):
        stock.files_of("dream")

    assert not stock.ready()
    assert left == ["all"]


def test_a_server_that_is_slow_once_is_not_away(stock: Stock, webui: Webui, monkeypatch: pytest.MonkeyPatch) -> None:
    stock.look()
    monkeypatch.setattr("tasks.machine.drivers.a1111.wire.Server.get", _impatient(Server.get))
    webui.deaf = True
    stock.look()
    after_one = stock.ready()

    stock.look()

    assert after_one == {"dream"}
    assert not stock.ready()


def _impatient(get: object) -> object:
    def sooner(server: Server, path: str, **more: object) -> object:
        return get(server, path, **{"seconds": 0.2, **more})  # type: ignore[operator]  # it is the method itself

    return sooner


def test_declared_checkpoints_are_the_only_ones_and_missing_ones_are_named(webui: Webui, url: str) -> None:
    webui.checkpoints += [checkpoint("other"), checkpoint("third")]
    stock = Stock(Server(webui.url), FleetClient(url, "", MACHINE, BOOT), ("other", "drem"))

    stock.look()

    missing = next(holding for holding in stock.holdings(frozenset()) if holding["model_id"] == "drem")
    assert stock.ready() == {"other"}
    assert "detail" in states(stock)
    assert (missing["state"], missing["error_code"]) == ("error", "not_there")
    assert "has no checkpoint drem; it has dream" in missing["error"]


def test_lists_that_cannot_be_read_prove_nothing(stock: Stock, webui: Webui) -> None:
    stock.look()
    webui.checkpoints = [{"name": "of another program"}]
    stock.look()

    assert stock.ready() == frozenset()
    assert "lists no models" in stock.holdings(frozenset())[0]["error"]


def test_an_entry_that_an_operator_took_away_comes_back_while_the_server_has_it(
    stock: Stock, fleet: Fleet, tmp_path: Path
) -> None:
    stock.look()
    with fleet.transaction() as tx:
        tx.session.delete(the_model(fleet, "dream"))

    for _ in range(15):
        stock.look()

    assert the_model(fleet, "dream").origin == "a1111"


def test_a_job_is_drawn_by_the_server_and_its_receipt_says_so(worker: Worker, fleet: Fleet) -> None:
    job = a_job(fleet, model_id="dream", steps=2, width=64, height=64, n=2)

    worker.run(job.id)

    done = the_job(fleet, job.id)
    assert (done.state, len(done.images)) == (JobState.COMPLETED, 2)
    receipt = done.images[0].receipt or {}
    assert (receipt["driver"], receipt["server"]) == ("automatic1111", {"version": "v1.10.1"})
    assert receipt["files"] == [{"model_id": "dream", "path": "dream.safetensors", "hash": f"sha256:{DREAM}"}]


def test_a_job_goes_back_and_costs_no_try_while_the_server_is_away(worker: Worker, webui: Webui, fleet: Fleet) -> None:
    job = a_job(fleet, model_id="dream", steps=2)
    webui.close()
    worker.run(job.id)
    waiting = the_job(fleet, job.id)
    webui.open()

    worker.run(job.id)

    assert waiting.state == JobState.QUEUED
    assert [(a.state, a.error_code) for a in waiting.attempts] == [(AttemptState.LOST, "server_away")]
    assert the_job(fleet, job.id).state == JobState.COMPLETED


def test_an_order_that_brings_the_server_down_is_not_tried_for_ever(worker: Worker, webui: Webui, fleet: Fleet) -> None:
    job = a_job(fleet, model_id="dream", steps=2)
    webui.breaks = True
    states = []
    for _ in range(job.max_attempts):
        worker.run(job.id)
        states.append(the_job(fleet, job.id).state)

    assert states == [JobState.QUEUED, JobState.QUEUED, JobState.ERROR]
    assert the_job(fleet, job.id).error_code == "server_gone"


@pytest.mark.parametrize(
    ("driver", "is_asked", "is_told"),
    [("automatic1111", True, True), ("automatic1111", False, False), ("fake", True, False)],
)
def test_a_machine_that_will_refuse_every_order_says_so_at_its_start(
    driver: str, is_asked: bool, is_told: bool, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    warn(replace(settings, driver=driver, safety_check=is_asked))

    assert ("SAFETY_CHECK=1" in caplog.text and "refuse every order" in caplog.text) == is_told
