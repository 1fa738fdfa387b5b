"""How documents describe problems: which ones a route can have, and how each looks in its dialect."""

from collections.abc import Mapping, Sequence
from typing import Any

from app.api.door import Auth, Dialect, Problem

Json = dict[str, Any]

LOCATION: Mapping[str, Any] = {
    "required": True,
    "schema": {"type": "string"},
    "description": "where to ask for what was accepted",
}
RETRY_AFTER: Mapping[str, Any] = {
    "schema": {"type": "integer", "minimum": 0},
    "description": "seconds after which asking again may help",
}

EXAMPLES: Mapping[int, tuple[str, str, str]] = {
    400: ("The body cannot be read", "bad_request", "the body is not what its Content-Type says; send JSON"),
    401: ("No token, or a wrong one", "missing_token", "send `Authorization: Bearer <token>` with a token"),
    403: ("Not with this token", "forbidden", "this token may not do that"),
    404: ("There is nothing like that", "not_found", "there is nothing of that name here"),
    409: ("It cannot be done as things are", "conflict", "this cannot be done now; see what it is doing"),
    410: ("It is gone", "gone", "this is no longer kept"),
    413: ("Larger than this server takes", "request_entity_too_large", "the request is larger than this server takes"),
    415: ("A body of another kind", "unsupported_media_type", "send JSON with `Content-Type: application/json`"),
    416: ("No such range", "requested_range_not_satisfiable", "the file ends before this range"),
    422: ("A field is missing or wrong", "invalid_request", "steps: Must be greater than or equal to 1."),
    421: ("This server is not called so", "wrong_host", "this server does not answer under that name"),
    426: ("A machine of another version of the protocol", "machine_too_old", "upgrade the machine"),
    429: ("Too many requests or jobs of one client", "too_many_requests", "ask again in 12 s"),
    500: ("The server failed", "internal_error", "something went wrong in the server; its log says more"),
    501: ("Not possible here", "not_possible", "this cannot be done by this server"),
    503: ("Not now", "service_unavailable", "as many requests as may wait already; try again later"),
    504: ("It took too long", "too_slow", "the job goes on; ask for it later"),
}
"""By status: what it is called, and the code and the sentence of an example."""

COMES_AGAIN = {429, 503}


def either(one: str, other: str) -> Json:
    """Say that exactly one of two fields is given; for a schema's RULES."""
    return {"oneOf": [{"required": [one]}, {"required": [other]}]}


def any_of(*names: str) -> Json:
    """Say that at least one of these fields is given; for a schema's RULES."""
    return {"anyOf": [{"required": [name]} for name in names]}


def usual_problems(auth: Auth, operation: Mapping[str, Any], parameters: Sequence[Mapping[str, Any]]) -> set[int]:
    """Return the problems that a route has by what it takes, whoever wrote it."""
    found = {500, 503}
    if auth is not Auth.OPEN:
        found |= {401, 403, 421}
        found.add(429)
    if "requestBody" in operation:
        found |= {400, 413, 415, 422}
    places = {parameter.get("in") for parameter in parameters}
    if places & {"query", "header"}:
        found.add(422)
    if "path" in places:
        found.add(404)
    return found


def problem(status: int, answer: Mapping[str, Any], dialect: Dialect) -> Json:
    """Describe a problem in its dialect's shape, with an example that its dialect itself has worded."""
    told, code, sentence = EXAMPLES.get(status, ("A problem", "error", "this cannot be done"))
    facts = {"model_id": "no-such-model"} if status == 404 else {}  # what a 404 is about is named
    example = dialect.say(Problem(status, code, sentence, facts=facts))
    schema = {"$ref": f"#/components/schemas/{dialect.error.__name__.removesuffix('Schema')}"} if dialect.error else {}
    own = answer.get("content", {})
    is_told = any(content.get("schema", schema) != schema for content in own.values())
    content = own if is_told else {"application/json": {"schema": schema, "example": example}}
    headers = dict(answer.get("headers", {}))
    if status in COMES_AGAIN:
        headers["Retry-After"] = RETRY_AFTER
    if status == 401:  # RFC 9110, section 15.5.2, wants it
        headers["WWW-Authenticate"] = {"required": True, "schema": {"type": "string"}}
    found: Json = {"description": answer.get("description") or told, "content": content}
    return found | ({"headers": headers} if headers else {})


def success(status: int, answer: Mapping[str, Any], *, is_order: bool) -> Json:
    """Describe what comes back when all goes well."""
    found = {"description": "Done", **answer}
    if status not in {204, 304} and "content" not in found:
        found["content"] = {"application/json": {"schema": {}}}
    if status == 202 and is_order:  # accepted, and not waited for
        found["headers"] = {"Location": LOCATION} | found.get("headers", {})
    return found
