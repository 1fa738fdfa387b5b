"""Which scenes the model learns, how captions say them, and which combinations it must never see."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from tools.demo_model.shapes import COLOURS, PLACES, SHAPES, SIZES, Scene

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "background": tuple(COLOURS),
    "size": tuple(SIZES),
    "place": tuple(PLACES),
}

SAYINGS: dict[str, tuple[str, ...]] = {
    "large": ("large", "large", "big", "huge"),
    "small": ("small", "small", "little", "tiny"),
    "medium": ("medium", "medium", "medium sized"),
    "gray": ("gray", "gray", "grey"),
    "center": ("in the center", "in the center", "in the centre", "in the middle"),
    "top": ("at the top", "in the top"),
    "bottom": ("at the bottom", "in the bottom"),
    "left": ("on the left", "at the left", "in the left"),
    "right": ("on the right", "at the right", "in the right"),
}

OPENINGS = (
    "",
    "",
    "",
    "",
    "",
    "",
    "a picture of ",
    "a photo of ",
    "a drawing of ",
    "an image of ",
    "draw ",
    "a painting of ",
)
ENDINGS = (
    "",
    "",
    "",
    "",
    "",
    "",
    ".",
    ", masterpiece, best quality",
    ", flat design",
    ", simple",
    ", high quality, detailed",
)
WORDS = (
    "a an the of on in at with and background figure shape something please show me cube house cat dog tree person "
    "beautiful highly minimal poster logo icon art style"
)


@dataclass(frozen=True, slots=True)
class Caption:
    """A prompt, and what it says; attributes that it leaves open are None."""

    text: str
    shape: str | None
    colour: str | None
    background: str | None
    size: str | None
    place: str | None

    def labels(self) -> list[int]:
        """Return one class per attribute, in the order of ATTRIBUTES; the last class is "not said"."""
        said = {f.name: getattr(self, f.name) for f in fields(self)}
        return [names.index(said[key]) if said[key] else len(names) for key, names in ATTRIBUTES.items()]


def held_out(scene: Scene) -> bool:
    """Tell whether a scene's combination is kept for the examination.

    That is one whole colour of each shape, and an eighth of the triples of shape, colour and background.
    """
    shape, colour = SHAPES.index(scene.shape), list(COLOURS).index(scene.colour)
    background = list(COLOURS).index(scene.background)
    return colour == (3 * shape + 1) % len(COLOURS) or (5 * shape + 3 * colour + background) % 8 == 0


def any_scene(rng: np.random.Generator, *, unseen: bool = False) -> Scene:
    """Draw lots for a scene: mostly large and centred, because a uniform mix does not teach shapes.

    `unseen` chooses between the combinations of the lessons and those of the examination.
    """
    while True:
        colour, background = _two(rng, list(COLOURS))
        scene = Scene(
            shape=_one(rng, SHAPES),
            colour=colour,
            background=background,
            size=str(rng.choice(["large", "medium", "small"], p=[0.5, 0.3, 0.2])),
            place="center" if rng.random() < 0.5 else _one(rng, tuple(PLACES)),
        )
        if held_out(scene) == unseen:
            return scene


def plain(scene: Scene, *, size: bool, place: bool) -> str:
    """Say a scene in the documented form: "a large red circle on a blue background in the top left"."""
    figure = f"{scene.size} {scene.colour} {scene.shape}" if size else f"{scene.colour} {scene.shape}"
    where = ""
    if place:
        where = f" {SAYINGS[scene.place][0]}" if scene.place in SAYINGS else f" in the {scene.place}"
    return f"{_with_article(figure)} on {_with_article(scene.background)} background{where}"


def caption(scene: Scene, rng: np.random.Generator) -> Caption:
    """Say a scene in one of many ways, now and then leaving something out.

    A size left out means large or medium, a place left out means the center; other gaps mean anything.
    """
    said = {key: str(getattr(scene, key)) for key in ATTRIBUTES}
    gaps = {"shape": 0.01, "colour": 0.03, "background": 0.05}
    gaps["size"] = 0.0 if scene.size == "small" else 0.45
    gaps["place"] = 0.6 if scene.place == "center" else 0.0
    kept = {key: None if rng.random() < gaps[key] else value for key, value in said.items()}
    words = {key: None if value is None else _say(value, rng) for key, value in kept.items()}
    figure = " ".join(w for w in (words["size"], words["colour"], words["shape"] or "shape") if w)
    style = rng.random()
    if style < 0.8:
        ground = ""
        if words["background"]:
            ground = f" on {_with_article(words['background'])} background"
            if rng.random() < 0.15:
                ground = f" on {words['background']}"
        text = f"{_with_article(figure)}{ground}" + (f" {words['place']}" if words["place"] else "")
        text = _one(rng, OPENINGS) + text + _one(rng, ENDINGS)
    else:
        ground = f"{words['background']} background" if words["background"] else ""
        parts = [p for p in (figure, ground, words["place"] or "") if p]
        text = ", ".join(parts)
    return Caption(text, kept["shape"], kept["colour"], kept["background"], kept["size"], kept["place"])


def vocabulary() -> list[str]:
    """Return every word that captions use: the tokenizer gives each a token of its own."""
    sayings = [phrase for phrases in SAYINGS.values() for phrase in phrases]
    names = [name for values in ATTRIBUTES.values() for name in values]
    text = " ".join([*names, *sayings, *OPENINGS, *ENDINGS, WORDS]).replace(",", " ").replace(".", " ")
    return sorted(set(text.split()))


def _say(value: str, rng: np.random.Generator) -> str:
    if value in SAYINGS:
        return _one(rng, SAYINGS[value])
    return f"in the {value}" if value in PLACES else value


def _with_article(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def _one(rng: np.random.Generator, values: Sequence[str]) -> str:
    return values[int(rng.integers(len(values)))]


def _two(rng: np.random.Generator, values: Sequence[str]) -> tuple[str, str]:
    first, second = rng.permutation(len(values))[:2]
    return values[int(first)], values[int(second)]
