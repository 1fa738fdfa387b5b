"""Schemas of what the fleet can do in the v1 dialect: flat, so that autoscalers can name any number in it."""

from marshmallow import Schema, fields, validate

MOST_MODELS = 10_000


def _count(about: str) -> fields.Integer:
    return fields.Integer(required=True, metadata={"description": about})


def _number(about: str, null: str) -> fields.Float:
    return fields.Float(required=True, allow_none=True, metadata={"description": f"{about}; null: {null}"})


def _measured(about: str) -> fields.Float:
    return _number(about, "not measured yet")


class ModelCapacitySchema(Schema):
    """How the demand for a model and the machines for it go together."""

    model_id = fields.String(required=True)
    jobs_waiting = _count("jobs that wait, those of its engines included")
    jobs_waiting_for_engines = _count("how many of them wait for an engine, which only the engine's machine draws")
    jobs_running = _count("jobs that machines are drawing")
    jobs_unended = _count("jobs that wait or run: scale down to nothing by this one, not by `jobs_waiting`")
    oldest_waiting_seconds = _number("for how long the oldest of them waits", "none waits")
    job_seconds = _measured("what a job took one machine lately, on average, without loading the model")
    work_waiting_seconds = _measured("for how long one machine would draw what waits")
    machines_ready = _count("machines that hold the model's proof and are given jobs")
    machines_downloading = _count("machines that fetch it")
    machines_verifying = _count("machines that prove it")
    machines_wanted = _count("machines that are going to fetch it")
    machines_coming = _count("the last three together")
    next_ready_in_seconds = _number("until the next of them is ready", "none is coming, or none moves")
    machines_drained = _count("machines with this model that an operator keeps from taking jobs")
    machines_sick = _count("machines with this model that the fleet gives no jobs")
    machines_silent = _count("machines with this model that no longer check in, seen within a day")
    machines_failed = _count("machines that could not get the model")
    clear_seconds = _number(
        "until all that waits now is drawn, by the machines that are ready or coming",
        "not measured yet, or no machine for it is in sight",
    )
    clear_seconds_with_one_more = _measured("the same, if another machine were started for this model now")
    seconds_saved_by_one_more = _number("the difference of the last two", "one of them is")
    new_machine_ready_seconds = _measured(
        "until a machine that starts now with an empty disk has fetched, proven and loaded the model; renting and "
        "booting it come on top"
    )
    new_machine_bytes = fields.Integer(
        required=True,
        allow_none=True,
        metadata={"description": "what it has to fetch, dependencies included; null: nobody knows"},
    )
    download_bytes_per_second = _measured("how fast a machine of this fleet fetches models, the middle one of all")
    load_seconds = _measured("how long bringing it into a machine's memory takes")


class CapacityQuerySchema(Schema):
    """Which models to show."""

    waiting = fields.Boolean(metadata={"description": "only models for which jobs wait (true), or none do (false)"})
    limit = fields.Integer(
        load_default=MOST_MODELS,
        validate=validate.Range(1, MOST_MODELS),
        metadata={"description": "at most so many, those with the most work waiting first"},
    )


class CapacitySchema(Schema):
    """Every model that pictures can be drawn with: those with the most work waiting first, then by id."""

    measured_at = fields.AwareDateTime(required=True)
    jobs_waiting = _count("over all models, also those that are not shown")
    jobs_running = _count("the same of those that are drawn")
    models_total = _count("how many models there are, shown or not")
    models = fields.List(fields.Nested(ModelCapacitySchema), required=True)
