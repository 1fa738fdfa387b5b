"""v1: why a job is where it is."""

from typing import Any
from uuid import UUID

from app.api.door import fleet
from app.api.v1.blueprint import blueprint
from app.api.v1.event_schemas import ExplanationSchema
from app.api.v1.schemas import V1ErrorSchema
from app.core import explain


@blueprint.get("/jobs/<uuid:job_id>/explain")
@blueprint.response(200, ExplanationSchema)
@blueprint.alt_response(404, schema=V1ErrorSchema)
def explain_job(job_id: UUID) -> dict[str, Any]:
    """Say for each machine why it has or has not taken the job, and what would unblock it."""
    with fleet().reading() as session:
        facts = explain.gather(fleet(), session, job_id)
    found = explain.explain(facts)
    return {
        "job_id": job_id,
        "status": facts.job.state.value,
        "summary": found.summary,
        "unblock": found.remedy,
        "machines": found.verdicts,
    }
