"""Lines of engines and of their model, both long: a claim costs the same and never gives out the other line's jobs."""

from uuid import UUID, uuid4

from sqlalchemy import select, text

from app.core.fleet import Fleet
from app.core.lifecycle import EngineState
from app.core.tables import Engine, Job, queue_of
from tests.builders import BOOT, MACHINE, MODEL, a_machine, a_model, claim, the_job
from tests.services.test_turns import BACKLOG, OWNERS, fill, plans, statements, touched


def an_engine(fleet: Fleet) -> UUID:
    """Have an engine that is ready on the machine."""
    with fleet.transaction() as tx:
        engine = Engine(checkpoint_id=MODEL, machine_id=MACHINE, boot_id=BOOT, is_wanted=True)
        engine.id, engine.created_at, engine.updated_at = uuid4(), tx.now, tx.now
        engine.state = EngineState.READY  # the lifecycle is not what is tried here
        tx.session.add(engine)
        return engine.id


def hand_over(fleet: Fleet, engine_id: UUID) -> None:
    """Let half of the owners' jobs wait for the engine instead."""
    given = engine_id if fleet.engine.dialect.name == "postgresql" else engine_id.hex
    with fleet.engine.connect().execution_options(writes=True) as connection, connection.begin():
        connection.execute(
            text(
                "UPDATE jobs SET engine_id = :engine, queue = :queue "
                f"WHERE CAST(substr(owner, 7) AS integer) >= {OWNERS // 2}"
            ),
            {"engine": given, "queue": queue_of(MODEL, engine_id)},
        )
    if fleet.engine.dialect.name == "postgresql":
        with fleet.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE jobs")  # rows that were never changed leave nothing dead behind


def test_claims_cost_the_same_in_both_lines_and_keep_to_them(fleet: Fleet) -> None:
    a_model(fleet)
    a_machine(fleet, ready_for=[MODEL])
    fill(fleet, BACKLOG)
    engine_id = an_engine(fleet)
    hand_over(fleet, engine_id)
    with fleet.reading() as session:
        bells = {
            each: session.scalars(select(Job.id).where(Job.queue == queue_of(MODEL, each)).limit(1)).one()
            for each in (None, engine_id)
        }

    for of_engine, bell in bells.items():
        with statements(fleet.engine) as said:
            attempts = [claim(fleet, bell) for _ in range(3)]

        given = [the_job(fleet, attempt.job_id) for attempt in attempts if attempt]
        assert [job.engine_id for job in given] == [of_engine] * 3
        looking = [(statement, values) for statement, values in said if "leaps" in statement or "LIMIT" in statement]
        for plan in plans(fleet.engine, looking[:6]):
            if fleet.engine.dialect.name == "postgresql":
                assert touched(plan) < 500, plan
            else:
                assert "SCAN jobs" not in plan, plan
                assert "TEMP B-TREE" not in plan, plan
