"""What lies on this machine beside its checkpoints: of which kind each is, and what prompts should have with it."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from provisioning import receipts
from provisioning.receipts import Receipt
from tasks.machine.drivers import detect, headers
from tasks.machine.drivers.contract import CannotDraw

NOT_BESIDE = ("checkpoint", "config")
"""Kinds that are told of elsewhere: by the queues that are consumed, and as what these depend on."""

MOST_WORDS = 20
LONGEST_WORD = 200
"""Characters."""

OFTEN = 0.9
"""Tags that so many of the most frequent one's pictures have belong to what was trained."""


@dataclass(frozen=True, slots=True)
class Item:
    """A model that goes along with others."""

    kind: str
    trigger_words: tuple[str, ...] = ()


@dataclass(slots=True)
class Shelf:
    """Looks into each file once."""

    models_dir: Path
    _known: dict[str, tuple[Receipt, Item]] = field(default_factory=dict)

    def companions(self) -> Mapping[str, Item]:
        """Return what is proven here and goes along with checkpoints, by id."""
        proven = receipts.ready_models(self.models_dir)
        found = {}
        for model_id, receipt in receipts.load_all(self.models_dir).items():
            if model_id not in proven:
                continue
            if model_id not in self._known or self._known[model_id][0] != receipt:
                self._known[model_id] = (receipt, _look_at(self.models_dir, receipt))
            item = self._known[model_id][1]
            if item.kind not in NOT_BESIDE:
                found[model_id] = item
        return found


def _look_at(models_dir: Path, receipt: Receipt) -> Item:
    paths = [models_dir / file.path for file in receipt.files]
    path = paths[0] if len(paths) == 1 else Path(*_common(paths))
    try:
        kind = detect.look_at(path, allow_pickles=False).kind
    except (CannotDraw, OSError):
        kind = "other" if path.suffix not in {".dduf", ".ckpt"} else "checkpoint"
    words = trigger_words(headers.metadata_of(path)) if path.suffix in detect.SAFE else ()
    return Item(kind, words or ((path.stem,) if kind == "embedding" else ()))


def _common(paths: Iterable[Path]) -> list[str]:
    shared: list[str] = []
    for parts in zip(*(path.parts for path in paths), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return shared


def trigger_words(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Read what a prompt should have in it from the metadata of a file.

    `modelspec.trigger_phrase` (github.com/Stability-AI/ModelSpec) where its author gave one; else the tags that nearly
    all pictures had that it was trained on, from kohya's `ss_tag_frequency`: {folder: {tag: count}}.
    """
    given = metadata.get("modelspec.trigger_phrase", "")
    words = [word.strip() for word in given.split(",")]
    if not any(words):
        words = _frequent(metadata.get("ss_tag_frequency", ""))
    return tuple(dict.fromkeys(word[:LONGEST_WORD] for word in words if word))[:MOST_WORDS]


def _frequent(told: str) -> list[str]:
    try:
        folders = json.loads(told)
        counts = Counter[str]()
        for tags in folders.values():
            counts.update({str(tag).strip(): int(count) for tag, count in tags.items()})
    except (ValueError, TypeError, AttributeError):
        return []
    most = max(counts.values(), default=0)
    return [tag for tag, count in counts.most_common() if count >= OFTEN * most]
