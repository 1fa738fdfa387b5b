"""v1: which models each machine should hold next."""

from typing import Any

from app.api.door import fleet
from app.api.v1 import placement_schemas
from app.api.v1.blueprint import blueprint
from app.core import placing
from app.core.placement import Proposal


@blueprint.get("/placement")
@blueprint.response(200, placement_schemas.PlacementSchema)
def show_placement() -> dict[str, Any]:
    """Propose the next MACHINE_MODELS_NEEDED of every machine, from what is ordered; nothing is changed."""
    with fleet().reading() as session:
        found = placing.propose(session, fleet().limits, fleet().clock())
    unplaced = [{"model_id": model_id, "explanation": why} for model_id, why in found.unplaced.items()]
    return {"machines": [_shown(each) for each in found.proposals], "unplaced": unplaced}


def _shown(proposal: Proposal) -> dict[str, Any]:
    return {
        "machine_id": proposal.machine_id,
        "changed": bool(proposal.adds or proposal.drops),
        "models_needed_now": proposal.needed_now,
        "models_needed_next": proposal.needed_next,
        "setting": ",".join(proposal.needed_next),
        "adds": proposal.adds,
        "drops": proposal.drops,
        "bytes_to_fetch": proposal.bytes_to_fetch,
        "seconds_to_fetch": proposal.seconds_to_fetch,
        "explanation": proposal.explanation,
    }
