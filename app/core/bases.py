"""What a catalogue may call the families of models, and what of different entries fits together.

Pure: machines import this module too. The families themselves are rows of `tasks.machine.drivers.families`.
"""

import re
from collections.abc import Mapping

WORDS: Mapping[str, tuple[str, ...]] = {
    "sd15": (
        "Stable Diffusion 1.5",
        "sd",
        "sd1",
        "sd14",
        "stable diffusion 1",
        "stable diffusion 1.4",
        "sd 1.5 lcm",
        "sd 1.5 hyper",
    ),
    "sd2": (
        "Stable Diffusion 2",
        "sd",
        "sd20",
        "sd21",
        "sd 2.0 768",
        "sd 2.1 768",
        "sd 2.1 unclip",
        "stable diffusion 2.1",
    ),
    "sdxl": (
        "Stable Diffusion XL",
        "sdxl 0.9",
        "sdxl 1.0",
        "sdxl base",
        "xl",
        "pony",
        "illustrious",
        "noobai",
        "playground v2",
    ),
    "sdxl-turbo": ("SDXL Turbo",),
    "sdxl-lightning": ("SDXL Lightning", "sdxl hyper"),
    "sdxl-refiner": ("SDXL refiner", "sdxl"),
    "sd3": ("Stable Diffusion 3", "sd 3.5", "sd 3.5 medium", "sd 3.5 large", "stable diffusion 3.5"),
    "sd3-turbo": ("SD 3.5 Large Turbo", "sd 3 turbo"),
    "flux-dev": ("FLUX.1 dev", "flux", "flux1", "flux.1 d"),
    "flux-schnell": ("FLUX.1 schnell", "flux", "flux1", "flux.1 s"),
    "sana": ("Sana",),
    "sana-sprint": ("Sana Sprint", "sana"),
}
"""What a catalogue may call each family beside its name, its label first; Civitai's words are among them. A word may
mean several: then the file decides. Compared by letters and digits alone."""

LIKE: Mapping[str, str] = {
    "sdxl-turbo": "sdxl",
    "sdxl-lightning": "sdxl",
    "sd3-turbo": "sd3",
    "flux-schnell": "flux-dev",
    "sana-sprint": "sana",
}
"""Distilled families, by the one that they are made from: what fits one fits the other."""

SHARED: Mapping[str, tuple[frozenset[str], ...]] = {"vae": (frozenset({"sd15", "sd2"}),)}
"""Kinds of models that fit several families: Stable Diffusion 2 has the autoencoder of 1."""


def plain(word: str) -> str:
    """Return a word by its letters and digits alone."""
    return re.sub(r"[^a-z0-9]+", "", word.lower().replace("stable diffusion", "sd"))


def _meanings() -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for name, words in WORDS.items():
        for bare in {plain(each) for each in (name, *words)}:
            found[bare] = (*found.get(bare, ()), name)
    return found


_MEANINGS = _meanings()
"""The families by each word that may mean them: for each order it is asked of every embedding of the catalogue."""


def meant_by(word: str | None) -> tuple[str, ...]:
    """Return the families that a catalogue's word may mean; none for a word that nobody knows."""
    return _MEANINGS.get(plain(word or ""), ())


def fit(first: str | None, second: str | None, kind: str = "") -> bool:
    """Say whether what the catalogue calls two entries leaves it possible that they fit; a kind may be shared."""
    ours, theirs = ({LIKE.get(name, name) for name in meant_by(word)} for word in (first, second))
    if not ours or not theirs or ours & theirs:
        return True
    return any(ours & shared and theirs & shared for shared in SHARED.get(kind, ()))


def label_of(name: str) -> str:
    """Return what people call a family."""
    return WORDS[name][0]
