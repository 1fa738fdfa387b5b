"""What stands in a prompt: weights and breaks; networks that it names are read by `app.core.prompt_tags`. Pure."""

import re
from dataclasses import dataclass, field

MORE, LESS = 1.1, 1 / 1.1
"""What a pair of round and of square brackets multiplies a weight with."""

DEEPEST = 50
"""Brackets inside of more brackets than this are text: nobody means them."""

TOKEN = re.compile(
    r"""
    \\[()\[\]\\]                                         # an escaped bracket or backslash
    | :\s*(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))\s*\)      # the end of (words:1.3)
    | [()\[\]]
    | \s*\b(?P<break>BREAK)\b\s*
    | [^\\()\[\]:B]+ | [\\:B]
    """,
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Piece:
    """Words with one weight; without words it is a BREAK."""

    text: str | None
    weight: float = 1.0


BREAK = Piece(None)


@dataclass(slots=True)
class _Group:
    bracket: str
    members: list["Piece | _Group"] = field(default_factory=list)
    weight: float = 1.0


def pieces(text: str) -> list[Piece]:
    """Take a prompt apart into pieces with weights, in order; brackets without a partner end with the text."""
    open_groups = [_Group("")]
    for token in TOKEN.finditer(text):
        word = token[0]
        if token["break"]:
            open_groups[-1].members.append(BREAK)
        elif word in "([" and len(open_groups) <= DEEPEST:
            open_groups.append(_Group(word))
        elif word.endswith(")") and not word.startswith("\\") and _is_open(open_groups, "("):
            _close(open_groups, "(", float(token["weight"]) if token["weight"] else MORE)
        elif word == "]" and _is_open(open_groups, "["):
            _close(open_groups, "[", LESS)
        else:
            open_groups[-1].members.append(Piece(word[1:] if len(word) == 2 and word[0] == "\\" else word))
    while len(open_groups) > 1:
        _close(open_groups, open_groups[-1].bracket, MORE if open_groups[-1].bracket == "(" else LESS)
    return _merged(_flat(open_groups[0], 1.0)) or [Piece("")]


def _is_open(groups: list[_Group], bracket: str) -> bool:
    return any(group.bracket == bracket for group in groups)


def _close(groups: list[_Group], bracket: str, weight: float) -> None:
    """Close the innermost group of that bracket, and those within it that nobody closed."""
    while True:
        closed = groups.pop()
        groups[-1].members.append(closed)
        if closed.bracket == bracket:
            closed.weight = weight
            return
        closed.weight = MORE if closed.bracket == "(" else LESS


def _flat(group: _Group, weight: float) -> list[Piece]:
    found: list[Piece] = []
    for member in group.members:
        if isinstance(member, _Group):
            found += _flat(member, weight * member.weight)
        else:
            found.append(member if member.text is None else Piece(member.text, weight))
    return found


def _merged(found: list[Piece]) -> list[Piece]:
    """Join neighbours of one weight: a word must not be cut where an escaped bracket stands in it."""
    merged: list[Piece] = []
    for piece in found:
        before = merged[-1] if merged else BREAK
        if piece.text is not None and before.text is not None and before.weight == piece.weight:
            merged[-1] = Piece(before.text + piece.text, piece.weight)
        else:
            merged.append(piece)
    return merged


def plain(text: str) -> tuple[str, bool]:
    """Return the words of a prompt for models that know no weights, and whether that left anything out.

    Only what can be nothing else is taken for syntax, `(words:1.3)` and BREAK: such models read sentences, and brackets
    belong to those.
    """
    read = re.sub(r"\\([()\[\]])", r"\1", text)
    while True:
        less = re.sub(r"\(([^()]*?):\s*[+-]?(?:\d+\.?\d*|\.\d+)\s*\)", r"\1", read)
        if less == read:
            break
        read = less
    without = re.sub(r"\s*\bBREAK\b\s*", " ", read)
    return without, without != re.sub(r"\\([()\[\]])", r"\1", text)
