"""What somebody else deletes at this very moment: whoever waited for it finds nothing, and is told so plainly."""

from collections.abc import Callable

import pytest

from app.core import (
    check_in,
    deliveries,
    engine_reports,
    engines,
    images,
    jobs,
    machines,
    models,
    presence,
    removal,
    retention,
)
from app.core.deliveries import Answer
from app.core.engines import EngineSpec
from app.core.errors import (
    CheckpointNotFound,
    DeliveryNotFound,
    EngineNotFound,
    FleetError,
    ImageNotFound,
    InvalidSpec,
    MachineAlive,
    MachineNotFound,
    ModelInUse,
    ModelNotFound,
)
from app.core.extras import Lora
from app.core.fleet import Fleet, Transaction
from app.core.jobs import Terms
from app.core.lifecycle import EngineState, HoldingState
from app.core.machines import HoldingReport
from app.core.spec import GenerationSpec
from app.core.webhooks import HookRequest
from tests.builders import (
    BOOT,
    MACHINE,
    MODEL,
    a_completed_job,
    a_job,
    a_machine,
    a_model,
    a_report,
    an_entry,
    let_pass,
)
from tests.support.fakes import Clock
from tests.support.meanwhile import Deed, both, do, meanwhile
from tests.support.web import Client

DAY = 24 * 3600

ORDER = GenerationSpec(model_id=MODEL, prompt="a red circle")
STYLED = GenerationSpec(model_id=MODEL, prompt="a red circle", loras=(Lora(model_id="style"),))
STYLED_ENGINE = EngineSpec(checkpoint_id=MODEL, loras=(Lora(model_id="style"),))


def forget(tx: Transaction) -> None:
    presence.forget(tx, machines.get(tx.session, MACHINE))


def remove(tx: Transaction) -> None:
    removal.remove(tx, MODEL)


def remove_style(tx: Transaction) -> None:
    removal.remove(tx, "style")


@pytest.fixture
def silent(fleet: Fleet, clock: Clock) -> None:
    """Let a machine be silent for a day."""
    a_machine(fleet, ready_for=[MODEL])
    clock.advance(DAY)


@pytest.mark.usefixtures("silent")
def test_a_machine_that_is_forgotten_twice_at_once_is_not_found_the_second_time(fleet: Fleet, client: Client) -> None:
    answer = meanwhile(fleet, forget, lambda: client.delete(f"/v1/machines/{MACHINE}"))

    assert (answer.status_code, answer.json["error"]["code"]) == (404, "machine_not_found")  # type: ignore[attr-defined]  # an answer


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("deed", [machines.drain, machines.undrain])
def test_a_machine_that_is_just_forgotten_is_not_found(
    fleet: Fleet, deed: Callable[[Transaction, str], object]
) -> None:
    assert isinstance(both(fleet, forget, lambda tx: deed(tx, MACHINE)), MachineNotFound)


@pytest.mark.usefixtures("silent")
def test_a_machine_that_comes_back_while_it_is_forgotten_is_a_new_one(fleet: Fleet, clock: Clock) -> None:
    both(fleet, forget, lambda tx: check_in.check_in(tx, a_report()))

    with fleet.reading() as session:
        assert machines.get(session, MACHINE).first_seen_at == clock.now


@pytest.mark.usefixtures("silent")
def test_a_machine_that_comes_back_just_before_is_not_forgotten(fleet: Fleet, clock: Clock) -> None:
    def back(tx: Transaction) -> None:
        check_in.check_in(tx, a_report())

    assert isinstance(both(fleet, back, forget), MachineAlive)
    clock.advance(DAY)
    # Whoever is just being written is passed over.
    assert both(fleet, back, lambda tx: retention.forget_machines(tx, tx.now)) == 0


@pytest.mark.usefixtures("silent")
def test_a_machine_is_not_forgotten_before_its_engine_is_taken_back(fleet: Fleet, clock: Clock) -> None:
    a_model(fleet)
    with fleet.transaction() as tx:
        engine = engines.create(tx, EngineSpec(checkpoint_id=MODEL))
        engine.machine_id, engine.boot_id, engine.state, engine.is_wanted = MACHINE, BOOT, EngineState.READY, True
        engine_id = engine.id

    too_soon = do(fleet, forget)
    left = do(fleet, lambda tx: retention.forget_machines(tx, tx.now))
    let_pass(fleet, clock, 20)
    do(fleet, engine_reports.close_of_silent_machines)

    assert (type(too_soon), left) == (MachineAlive, 0)
    with fleet.reading() as session:
        assert engines.get(session, engine_id).state == EngineState.CLOSED
    assert do(fleet, forget) is None


NOT_FOUND: dict[str, tuple[Deed, Deed, type[FleetError]]] = {
    "remove a model": (remove, remove, ModelNotFound),
    "change a model": (remove, lambda tx: models.change(tx, MODEL, {"description": "new"}), ModelNotFound),
    "order": (remove, lambda tx: jobs.submit(tx, ORDER), ModelNotFound),
    "order with a LoRA": (remove_style, lambda tx: jobs.submit(tx, STYLED), InvalidSpec),
    "make an engine": (remove, lambda tx: engines.create(tx, EngineSpec(checkpoint_id=MODEL)), CheckpointNotFound),
    "make an engine with a LoRA": (remove_style, lambda tx: engines.create(tx, STYLED_ENGINE), ModelNotFound),
}
"""What is done with a model while it is taken out of the catalogue, and what comes of it."""


@pytest.mark.parametrize("case", NOT_FOUND.values(), ids=NOT_FOUND)
def test_a_model_that_is_just_removed_is_not_found(fleet: Fleet, case: tuple[Deed, Deed, type[FleetError]]) -> None:
    a_model(fleet)
    a_model(fleet, "style", kind="lora")
    first, second, refusal = case

    assert type(both(fleet, first, second)) is refusal


USES: dict[str, tuple[Deed, Deed]] = {
    "order": (lambda tx: jobs.submit(tx, ORDER), remove),
    "order with a LoRA": (lambda tx: jobs.submit(tx, STYLED), remove_style),
    "engine": (lambda tx: engines.create(tx, EngineSpec(checkpoint_id=MODEL)), remove),
    "engine with a LoRA": (lambda tx: engines.create(tx, STYLED_ENGINE), remove_style),
}


@pytest.mark.parametrize("case", USES.values(), ids=USES)
def test_a_model_that_somebody_just_began_to_need_stays(fleet: Fleet, case: tuple[Deed, Deed]) -> None:
    a_model(fleet)
    a_model(fleet, "style", kind="lora")

    assert isinstance(both(fleet, *case), ModelInUse)


def test_a_model_that_is_written_while_it_is_removed_is_there(fleet: Fleet) -> None:
    a_model(fleet)

    both(fleet, remove, lambda tx: models.put(tx, an_entry(description="new"), origin="api"))

    with fleet.reading() as session:
        assert models.get(session, MODEL).description == "new"


def test_a_machine_may_tell_of_a_model_that_is_just_removed(fleet: Fleet) -> None:
    a_model(fleet)
    told = HoldingReport(model_id=MODEL, state=HoldingState.READY, trigger_words=("a word",))

    orders = both(fleet, remove, lambda tx: check_in.check_in(tx, a_report(holdings=[told])))

    assert isinstance(orders, check_in.Orders)


def test_an_engine_that_is_deleted_twice_at_once_is_not_found_the_second_time(fleet: Fleet) -> None:
    a_model(fleet)
    with fleet.transaction() as tx:
        engine_id = engines.create(tx, EngineSpec(checkpoint_id=MODEL)).id

    def delete(tx: Transaction) -> None:
        engines.remove(tx, engine_id, fleet)

    assert isinstance(both(fleet, delete, delete), EngineNotFound)


def test_a_picture_that_is_deleted_twice_at_once_is_not_found_the_second_time(fleet: Fleet) -> None:
    (image,) = a_completed_job(fleet).images

    def delete(tx: Transaction) -> None:
        images.remove(tx, image.id, fleet)

    assert isinstance(both(fleet, delete, delete), ImageNotFound)


def test_a_delivery_that_is_just_swept_away_is_not_sent_again(fleet: Fleet, clock: Clock) -> None:
    hook = HookRequest(url="https://client.example.org/", host="client.example.org:443")
    job = a_job(fleet, terms=Terms(hook=hook))
    with fleet.transaction() as tx:
        jobs.cancel(tx, job.id, fleet)
    with fleet.transaction() as tx:
        parcel = deliveries.take(tx, hook.host)
    assert parcel is not None
    with fleet.transaction() as tx:
        deliveries.record(tx, parcel, Answer(clock.now, 1.0, 200))
    clock.advance(DAY)

    found = both(
        fleet,
        lambda tx: retention.forget_deliveries(tx, tx.now),
        lambda tx: deliveries.redeliver(tx, job.id, parcel.delivery_id),
    )

    assert isinstance(found, DeliveryNotFound)
