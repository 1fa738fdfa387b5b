"""The machine readable description of every dialect: OpenAPI 3.0.3, one document for all and one for each.

flask-smorest writes down what routes take and what they answer when all goes well. What is the same for all routes of a
dialect is added here: who may ask, how problems look in this dialect and which there are, and this server's limits.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import getdoc
from typing import Any

from flask import Flask, current_app
from flask_smorest import Api, Blueprint

from app.api.answers import problem, success, usual_problems
from app.api.door import Auth, Dialect, owner_of, tokens_of
from app.api.ordering import KEY_HEADER
from app.settings import Settings

EXTENSION = "imagefleet.documents"

ALL = "all"
"""The name of the document that has every dialect in it."""

VERBS = frozenset({"get", "put", "post", "delete", "patch"})
SCHEMES: Mapping[str, Mapping[str, str]] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A token as `Authorization: Bearer <token>`."},
    "basic": {"type": "http", "scheme": "basic", "description": "Any user name, and a token as the password."},
}
SCHEMES_OF: Mapping[Auth, Sequence[str]] = {
    Auth.OPEN: (),
    Auth.CLIENT: ("bearer",),
    Auth.CLIENT_OR_BASIC: ("basic", "bearer"),
    Auth.MACHINE: ("bearer",),
    Auth.METRICS: ("bearer",),
}

LIMITS: Mapping[str, tuple[str, str]] = {
    "prompt": ("maxLength", "max_prompt"),
    "negative_prompt": ("maxLength", "max_prompt"),
    "prompts": ("maxItems", "max_prompts"),
    "steps": ("maximum", "max_steps"),
    "num_inference_steps": ("maximum", "max_steps"),
    "width": ("maximum", "max_size"),
    "height": ("maximum", "max_size"),
    "n": ("maximum", "max_images"),
    "num_images": ("maximum", "max_images"),
    "batch_size": ("maximum", "max_images"),
    "n_iter": ("maximum", "max_images"),
    "job_ids": ("maxItems", "max_batch_ids"),
    "model_ids": ("maxItems", "max_batch_ids"),
}
"""Which setting bounds a field of a request, by the field's name, and what OpenAPI calls such a bound."""

ABOUT = """\
Pictures from many GPU machines, by several APIs over the same jobs: take the one that your client speaks. Each has its
own words and its own shape of errors; a job ordered by one can be seen by the others, under `/v1/jobs`.
"""

FIRST_PROBLEM = 400

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Listed:
    """A document, for pages that offer them."""

    name: str
    title: str
    path: str


class FleetApi(Api):  # type: ignore[misc]  # flask-smorest has no types
    """flask-smorest without its own error bodies, see app.api.door, and with descriptions only once somebody asks.

    Describing the routes of an application costs twice as much as making it, and what they are described in a third.
    """

    def __init__(self, app: Flask) -> None:
        """Begin without a route."""
        self._undescribed: list[Blueprint] = []
        self._describing = threading.Lock()
        super().__init__(app)

    def _init_spec(self, **options: Any) -> None:
        """Leave it until somebody asks for a document."""
        self._options = options

    def _register_error_handlers(self) -> None:
        """Register none."""

    def register_blueprint(self, blueprint: Blueprint, **_: Any) -> None:
        """Answer a blueprint's routes."""
        self._app.extensions["flask-smorest"]["blp_name_to_api"][blueprint.name] = self
        self._app.register_blueprint(blueprint)
        self._undescribed.append(blueprint)

    def describe(self) -> None:
        """Put what is not described yet into the documents."""
        with self._describing:
            if self.spec is None:
                super()._init_spec(**self._options)
            while self._undescribed:
                blueprint = self._undescribed.pop(0)
                blueprint.register_views_in_doc(self, self._app, self.spec, name=blueprint.name, parameters=None)
                self.spec.tag({"name": blueprint.name, "description": blueprint.description})


class Documents:
    """All documents of an application; each is made when it is first asked for."""

    def __init__(self, app: Flask, api: FleetApi, dialects: Sequence[Dialect], settings: Settings) -> None:
        """Take what the routes have said of themselves, as soon as all blueprints are registered."""
        self._endpoints = {
            (rule.rule, method.lower()): rule.endpoint
            for rule in app.url_map.iter_rules()
            for method in rule.methods or ()
        }
        self._rules = {_as_documented(rule): rule for rule, _ in self._endpoints}
        self._api = api
        self._dialects = dialects
        self._settings = settings
        self._whole: Json | None = None

    def listing(self) -> Sequence[Listed]:
        """Name the documents, that of everything first."""
        found = [Listed(ALL, "Everything", "/openapi.json")]
        described = {self._owner(path).name for path in self.whole()["paths"]}
        return found + [
            Listed(dialect.name, dialect.title or dialect.name, f"/openapi/{dialect.name}.json")
            for dialect in self._dialects
            if dialect.name in described
        ]

    def whole(self) -> Json:
        """Return the document of every dialect."""
        if self._whole is None:
            self._whole = self._completed()
        return self._whole

    def of(self, name: str) -> Json | None:
        """Return one dialect's document; None where there is no such dialect."""
        dialect = next((each for each in self._dialects if each.name == name), None)
        if name == ALL or dialect is None:
            return self.whole() if name == ALL else None
        whole = self.whole()
        paths = {path: item for path, item in whole["paths"].items() if self._owner(path) is dialect}
        schemes = {scheme: SCHEMES[scheme] for scheme in SCHEMES_OF[dialect.auth]}
        return whole | {
            "info": _info(f"Imagefleet: {dialect.title or dialect.name}", dialect.about),
            "tags": [tag for tag in whole["tags"] if tag["name"] == name],
            "paths": paths,
            "components": {"securitySchemes": schemes, "schemas": _needed(paths, whole["components"]["schemas"])},
        }

    def _completed(self) -> Json:
        self._api.describe()
        for dialect in self._dialects:
            if dialect.error is not None:
                self._api.ma_plugin.resolver.resolve_schema_dict(dialect.error)
        found: Json = _portable(self._api.spec.to_dict())
        _add_words(found["components"]["schemas"], self._api.ma_plugin.converter.refs)
        for path, item in found["paths"].items():
            dialect = self._owner(path)
            for verb, operation in _operations(item):
                self._complete(path, verb, operation, dialect, item.get("parameters", ()))
        schemas = _needed(found["paths"], found["components"]["schemas"])
        _bound(_taken(found["paths"], schemas), self._settings)
        used = {self._owner(path).name for path in found["paths"]}
        return {
            "openapi": found["openapi"],
            "info": _info("Imagefleet", ABOUT),
            "servers": [{"url": (self._settings.public_url or "").rstrip("/") + "/"}],
            "tags": [{"name": d.name, "description": d.about} for d in self._dialects if d.name in used],
            "paths": found["paths"],
            "components": {"securitySchemes": SCHEMES, "schemas": schemas},
        }

    def _owner(self, path: str) -> Dialect:
        return owner_of(path, self._dialects)

    def _complete(self, path: str, verb: str, operation: Json, dialect: Dialect, shared: Sequence[Json]) -> None:
        """Add to one operation what its dialect has for all of them."""
        endpoint = self._endpoints[self._rules[path], verb]
        named = endpoint.replace(".", "_").replace("-", "_")
        several = sum(each == endpoint for each in self._endpoints.values()) > 2  # HEAD or OPTIONS is always there
        operation["operationId"] = f"{named}_{verb}" if several else named
        operation["tags"] = [dialect.name]
        needs = SCHEMES_OF[dialect.auth] if tokens_of(dialect.auth, self._settings)[1] else ()
        operation["security"] = [{scheme: []} for scheme in needs]
        parameters = [*shared, *operation.get("parameters", ())]
        answers = {str(status): answer for status, answer in operation.get("responses", {}).items()}
        answers.pop("default", None)
        for status in {*usual_problems(dialect.auth, operation, parameters), *dialect.problems}:
            answers.setdefault(str(dialect.status_of(status)), {})
        is_order = KEY_HEADER in parameters
        operation["responses"] = {
            status: _answer(int(status), answers[status], dialect, is_order=is_order) for status in sorted(answers)
        }


def _answer(status: int, answer: Any, dialect: Dialect, *, is_order: bool) -> Json:
    told = answer if isinstance(answer, Mapping) and "$ref" not in answer else {}  # flask-smorest's own shape of errors
    return problem(status, told, dialect) if status >= FIRST_PROBLEM else success(status, told, is_order=is_order)


def _info(title: str, about: str) -> Json:
    return {"title": title, "version": "1", "description": about}


def _as_documented(rule: str) -> str:
    """Write a rule's variables as OpenAPI does."""
    parts = [part.split(">", 1) for part in rule.split("<")]
    head, rest = parts[0][0], parts[1:]
    return head + "".join("{" + name.rpartition(":")[2] + "}" + after for name, after in rest)


def _add_words(schemas: Mapping[str, Json], known: Mapping[Any, str]) -> None:
    """Add to each schema what its class says of it: its docstring, and rules over several fields."""
    for key, name in known.items():
        kind = key[0]
        if name in schemas:
            schemas[name].setdefault("description", (getdoc(kind) or "").partition("\n\n")[0])
            schemas[name].update(getattr(kind, "RULES", {}))


def _portable(part: Any) -> Any:
    r"""Write patterns as JSON Schema reads them: it looks for them anywhere in a text, and knows no `\Z`."""
    if isinstance(part, list):
        return [_portable(each) for each in part]
    if not isinstance(part, dict):
        return part
    found = {name: _portable(value) for name, value in part.items()}
    if isinstance(found.get("pattern"), str):
        found["pattern"] = "^" + found["pattern"].removeprefix("^").replace(r"\Z", "$")
    return found


def _operations(item: Json) -> Iterator[tuple[str, Json]]:
    yield from ((verb, operation) for verb, operation in item.items() if verb in VERBS)


def _needed(parts: Any, schemas: Mapping[str, Any]) -> Json:
    """Return the schemas that these parts of a document name, and those that they name."""
    found: Json = {}
    waiting = set(_named(parts))
    while waiting:
        name = waiting.pop()
        found[name] = schemas[name]
        waiting |= set(_named(schemas[name])) - found.keys()
    return dict(sorted(found.items()))


def _taken(paths: Json, schemas: Mapping[str, Any]) -> Sequence[Json]:
    """Return the schemas of bodies that are taken, wherever they stand."""
    bodies = [
        content["schema"]
        for item in paths.values()
        for _, operation in _operations(item)
        for content in operation.get("requestBody", {}).get("content", {}).values()
        if "schema" in content
    ]
    return [*bodies, *_needed(bodies, schemas).values()]


def _named(part: Any) -> Iterator[str]:
    """Name the schemas that a part of a document refers to."""
    if isinstance(part, Mapping):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"].rpartition("/")[2]
        for value in part.values():
            yield from _named(value)
    elif isinstance(part, list | tuple):
        for value in part:
            yield from _named(value)


def _bound(taken: Sequence[Json], settings: Settings) -> None:
    """Write this server's limits into the schemas of what it takes."""
    for schema in taken:
        for name, field in schema.get("properties", {}).items():
            if name in LIMITS and field.get("type") in {"integer", "string", "array"}:
                bound, setting = LIMITS[name]
                field[bound] = min(getattr(settings, setting), field.get(bound, 2**63))


def add_documents(app: Flask, api: FleetApi, dialects: Sequence[Dialect], settings: Settings) -> None:
    """Give an application its documents."""
    app.extensions[EXTENSION] = Documents(app, api, dialects, settings)


def documents() -> Documents:
    """Return this application's documents."""
    found: Documents = current_app.extensions[EXTENSION]
    return found
