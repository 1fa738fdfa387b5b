"""What of Civitai's answer is kept: the part that clients are shown, checked field by field. Pure.

It is text that strangers have written: of the wrong type or too long, a field is left out; of HTML only the text stays.
"""

from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlsplit

from app.core.models import can_be_stored

LONGEST = 500
LONGEST_DESCRIPTION = 4000
"""Characters."""

MOST_WORDS = 100
MOST_PICTURES = 5
MOST_NUMBER = 2**53


class Unreadable(Exception):
    """The answer is no version of a model."""


def read(answer: Any, site: str) -> dict[str, Any]:
    """Return what is shown of a model's version; `site` is where its page is. Raises Unreadable."""
    version = _object(answer)
    model, version_id, model_id = (
        _object(version.get("model")),
        _number(version.get("id")),
        _number(version.get("modelId")),
    )
    if version_id is None or model_id is None:
        raise Unreadable
    return {
        "model_id": model_id,
        "version_id": version_id,
        "name": _text(model.get("name")),
        "version": _text(version.get("name")),
        "type": _text(model.get("type")),
        "base_model": _text(version.get("baseModel")),
        "trained_words": _words(version.get("trainedWords")),
        "description": _plain(version.get("description")),
        "nsfw": model.get("nsfw") is True,
        "published_at": _text(version.get("publishedAt")),
        "updated_at": _text(version.get("updatedAt")),
        "air": _text(version.get("air")),
        "stats": _stats(_object(version.get("stats"))),
        "images": _pictures(version.get("images")),
        "url": f"{site}/models/{model_id}?modelVersionId={version_id}",
    }


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> int | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 0 <= value <= MOST_NUMBER else None


def _text(value: Any, longest: int = LONGEST) -> str | None:
    return value[:longest] if isinstance(value, str) and can_be_stored(value) else None


def _words(value: Any) -> list[str]:
    found = (_text(each) for each in value) if isinstance(value, list) else ()
    return [word for word in found if word][:MOST_WORDS]


def _stats(stats: Mapping[str, Any]) -> dict[str, int | None]:
    return {"downloads": _number(stats.get("downloadCount")), "thumbs_up": _number(stats.get("thumbsUpCount"))}


def _pictures(value: Any) -> list[dict[str, Any]]:
    """Return the first example pictures: addresses for the client to fetch, or not to."""
    found = [_object(each) for each in value] if isinstance(value, list) else []
    return [
        {
            "url": each["url"],
            "width": _number(each.get("width")),
            "height": _number(each.get("height")),
            "nsfw_level": _number(each.get("nsfwLevel")),
        }
        for each in found
        if _is_address(each.get("url"))
    ][:MOST_PICTURES]


def _is_address(value: Any) -> bool:
    text = _text(value, LONGEST + 1)
    if text is None or len(text) > LONGEST or any(letter.isspace() or not letter.isprintable() for letter in text):
        return False
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname)


class _Words(HTMLParser):
    """Takes the text out of HTML."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._silent = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002  # its signature
        self._silent += tag in {"script", "style"}
        if tag in {"p", "br", "li", "div", "h1", "h2", "h3"}:
            self.found.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in {"script", "style"} and self._silent:
            self._silent -= 1

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.found.append(data)


def _plain(value: Any) -> str | None:
    """Return a description as text; at most ten times what is kept of it is read."""
    text = _text(value, LONGEST_DESCRIPTION * 10)
    if text is None:
        return None
    words = _Words()
    words.feed(text)
    words.close()
    lines = (" ".join(line.split()) for line in "".join(words.found).splitlines())
    return "\n".join(line for line in lines if line)[:LONGEST_DESCRIPTION] or None
