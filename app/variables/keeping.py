"""Variables that say for how long things are kept. Nothing is deleted unless one of them is set."""

from dataclasses import dataclass

from app import parse

LONGEST = 36_500


def _days(about: str) -> int:
    found: int = parse.variable(0, parse.number(0, LONGEST), f"{about}; 0: for ever", "30")
    return found


@dataclass(frozen=True, kw_only=True)
class KeepingVariables:
    """Days for which rows and files are kept (docs/operations.md)."""

    keep_jobs_days: int = _days(
        "days for which ended jobs are kept, with their pictures and deliveries; those with a favourite picture stay"
    )
    keep_images_days: int = _days("days for which pictures are kept; favourites stay, and so do the jobs")
    keep_deliveries_days: int = _days("days for which deliveries of webhooks are kept that are over")
    keep_inputs_days: int = _days("days for which uploaded pictures are kept that no job has asked for")
    keep_leftovers_days: int = _days(
        "days for which is kept what nobody can see: pictures of attempts that did not complete their job, files "
        "without a row"
    )
    keep_visitors_days: int = _days(
        "days for which is kept what clients of Automatic1111's API have set, once they no longer come"
    )
    keep_machines_days: int = _days("days for which machines are known that no longer check in; drained ones stay")
