"""What the schemas of all nouns of the v1 dialect share."""

from marshmallow import INCLUDE, Schema, fields, validate

from app.core.lifecycle import JobState

STATES = [state.value for state in JobState]
"""Of a job."""

NOT_EMPTY = validate.Length(min=1, error="must not be empty")


class ProblemSchema(Schema):
    """A problem in words and a code for programs."""

    code = fields.String(required=True)
    message = fields.String(required=True)
    fields_ = fields.Dict(data_key="fields", attribute="fields")

    class Meta:
        """Facts stand beside these, such as the `job_id` that is not there."""

        unknown = INCLUDE


class V1ErrorSchema(Schema):
    """A problem in the v1 dialect's shape."""

    error = fields.Nested(ProblemSchema, required=True)
