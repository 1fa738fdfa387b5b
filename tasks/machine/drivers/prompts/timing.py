"""Prompts that change while a picture is drawn: `[from:to:when]` and `[one|other]`. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from tasks.machine.drivers.prompts.reading import DEEPEST

TOKEN = re.compile(r"\\.|[\[\]()|:]|[^\\\[\]()|:]+|\\", re.DOTALL)
WHEN = re.compile(r"\s*(\d+\.?\d*|\.\d+)\s*\Z")


@dataclass(frozen=True, slots=True)
class _Switch:
    before: "Text"
    after: "Text"
    when: str

    def at(self, step: int, steps: int) -> "Text":
        """Return the first until `when`: a number of steps, or with a point in it a part of them."""
        last = float(self.when) * steps if "." in self.when else float(self.when)
        return self.before if step <= int(last) else self.after


@dataclass(frozen=True, slots=True)
class _Turns:
    choices: "Sequence[Text]"

    def at(self, step: int, _steps: int) -> "Text":
        """Return one after the other."""
        return self.choices[(step - 1) % len(self.choices)]


Text = list[str | _Switch | _Turns]


@dataclass(slots=True)
class _Open:
    bracket: str
    parts: list[Text] = field(default_factory=lambda: [[]])
    between: list[str] = field(default_factory=list)
    """What stands between the parts: `:` or `|`."""


def at_each_step(text: str, steps: int) -> list[str]:
    """Return the prompt for each of the steps."""
    read = _read(text)
    if all(isinstance(member, str) for member in read):
        return [text] * steps
    return [_said(read, step, steps) for step in range(1, steps + 1)]


def _said(text: Text, step: int, steps: int) -> str:
    return "".join(member if isinstance(member, str) else _said(member.at(step, steps), step, steps) for member in text)


def _read(text: str) -> Text:
    groups = [_Open("")]
    for sign in TOKEN.findall(text):
        innermost = groups[-1]
        if sign in {"[", "("} and len(groups) <= DEEPEST:
            groups.append(_Open(sign))
        elif sign in {":", "|"} and innermost.bracket == "[":
            innermost.between.append(sign)
            innermost.parts.append([])
        elif sign == ")" and innermost.bracket == "(":
            _give_up(groups)
            groups[-1].parts[-1].append(sign)
        elif sign == "]" and any(group.bracket == "[" for group in groups):
            while groups[-1].bracket != "[":
                _give_up(groups)
            closed = groups.pop()
            groups[-1].parts[-1] += _meant(closed)
        else:
            innermost.parts[-1].append(sign)
    while len(groups) > 1:
        _give_up(groups)
    return groups[0].parts[0]


def _give_up(groups: list[_Open]) -> None:
    """Take the innermost group for what it looks like: a bracket and what follows it."""
    group = groups.pop()
    groups[-1].parts[-1] += [group.bracket, *_literally(group.parts, group.between)]


def _literally(parts: Sequence[Text], between: Sequence[str]) -> Text:
    whole: Text = list(parts[0])
    for mark, part in zip(between, parts[1:], strict=True):
        whole += [mark, *part]
    return whole


def _meant(group: _Open) -> Text:
    """Say what a pair of square brackets means."""
    if "|" in group.between:
        return [_Turns(_choices(group))]
    last = "".join(str(member) for member in group.parts[-1])
    if len(group.parts) in {2, 3} and (when := WHEN.match(last)):
        *before, after = group.parts[:-1]
        return [_Switch(before[0] if before else [], after, when[1])]
    return ["[", *_literally(group.parts, group.between), "]"]


def _choices(group: _Open) -> list[Text]:
    """Join again what only a colon parts."""
    choices = [list(group.parts[0])]
    for sign, part in zip(group.between, group.parts[1:], strict=True):
        if sign == "|":
            choices.append(list(part))
        else:
            choices[-1] += [sign, *part]
    return choices
