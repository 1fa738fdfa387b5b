"""Routes compiled once for a whole run of tests, which makes some thousands of applications."""

from collections.abc import Callable
from typing import Any

from werkzeug.routing import Rule

Builder = Callable[..., tuple[str, str]]


def compile_once() -> None:
    """Keep what werkzeug compiles to build a route's address: four fifths of what making an application costs.

    The builder of an address is a function of the rule's text alone; the rule itself is handed to it at each call.
    """
    compiled: dict[tuple[Any, ...], Builder] = {}
    really: Callable[[Rule, bool], Builder] = Rule._compile_builder

    def once(rule: Rule, append_unknown: bool = True) -> Builder:  # as werkzeug has it
        defaults = tuple(sorted((rule.defaults or {}).items()))
        key = (rule.rule, rule.subdomain, tuple(rule._trace), defaults, append_unknown)
        if key not in compiled:
            compiled[key] = really(rule, append_unknown)
        return compiled[key]

    Rule._compile_builder = once  # type: ignore[method-assign, assignment]
