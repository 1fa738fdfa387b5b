"""What a catalogue may call the families, and that the table of families and the table of words know each other."""

from app.core import bases
from tasks.machine.drivers.families import FAMILIES


def test_every_family_has_words_and_begins_with_its_label() -> None:
    assert {name: bases.label_of(name) for name in bases.WORDS} == {row.name: row.label for row in FAMILIES.values()}


def test_what_looks_like_another_family_fits_what_that_one_takes() -> None:
    distilled = {row.name: row.file for row in FAMILIES.values() if row.file}

    assert distilled.items() <= bases.LIKE.items()
    assert set(bases.LIKE.values()) <= set(FAMILIES)


def test_words_are_compared_by_letters_and_digits_alone() -> None:
    assert bases.meant_by("Stable Diffusion 1.5") == bases.meant_by("sd_1.5") == ("sd15",)
    assert bases.meant_by("FLUX") == ("flux-dev", "flux-schnell")
    assert bases.meant_by("hunyuan") == bases.meant_by(None) == ()
