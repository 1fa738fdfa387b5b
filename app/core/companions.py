"""What an order brings along from the catalogue beside its checkpoint: found, held against it, and settled."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import Session

from app.core import bases, models
from app.core.errors import InvalidSpec
from app.core.extras import Lora
from app.core.fleet import Transaction
from app.core.names import Named
from app.core.prompt_tags import Network, without_networks, words_of
from app.core.spec import GenerationSpec
from app.core.tables import Model
from app.core.upscaling import BUILT_IN


def settle(tx: Transaction, spec: GenerationSpec, checkpoint: Model) -> GenerationSpec:
    """Add what the prompt names to what an order brings along, and hold all of it against the catalogue.

    Asked again about what it returned, it changes nothing: an ended job is ordered again as it was. Raises InvalidSpec
    with all that does not exist, is of another kind, or was made for another base.
    """
    spec = _with_embeddings(tx, _with_loras(tx, spec), checkpoint)
    kinds = dict(_kinds(spec))
    if kinds:
        _require_fitting(tx.session, kinds, checkpoint)
    return spec


def _kinds(spec: GenerationSpec) -> Iterable[tuple[str, str]]:
    """Say of what kind each companion has to be."""
    yield from ((lora.model_id, "lora") for lora in spec.loras)
    yield from ((model_id, "embedding") for model_id in spec.embeddings)
    if spec.vae_id:
        yield spec.vae_id, "vae"
    yield from ((control.model_id, "controlnet") for control in spec.controls if control.model_id)
    sizing = (each.upscaler for each in (spec.hires, spec.upscale) if each)
    yield from ((name, "upscaler") for name in sizing if name not in BUILT_IN)
    if spec.remove_background:
        yield spec.remove_background, "onnx"
    if spec.safety_checker:
        yield spec.safety_checker, "safety"


def _with_loras(tx: Transaction, spec: GenerationSpec) -> GenerationSpec:
    """Add the LoRAs that the prompt names; what the field says of one comes before what the prompt says."""
    _, networks = without_networks(spec.prompt)
    if not networks:
        return spec
    known = tx.names.of(tx.session, "lora", tx.now)
    named: dict[str, Lora] = {}
    for network in networks:
        model_id = _meant(known, network)
        before = named.get(model_id)
        # Named twice, it is worn as heavily as both say.
        weight = network.weight + (before.weight if before else 0.0)
        text_weight = network.text_weight + (before.text_weight or 0.0 if before else 0.0)
        named[model_id] = Lora(model_id=model_id, weight=weight, text_weight=text_weight)
    own = {lora.model_id for lora in spec.loras}
    return replace(spec, loras=(*spec.loras, *(lora for lora in named.values() if lora.model_id not in own)))


def _meant(known: Sequence[Named], network: Network) -> str:
    """Find the LoRA that a prompt's word means; raises InvalidSpec for none and for several."""
    tag, word = f"<{network.kind}:{network.name}>", network.name.lower()
    if network.kind == "hypernet":
        raise InvalidSpec(f"{tag}: hypernetworks cannot be drawn with; leave it out, or take a LoRA")
    exact = [each for each in known if each.id == network.name]
    found = exact or [each for each in known if word in each.names]
    if len(found) > 1:
        ids = ", ".join(each.id for each in found)
        raise InvalidSpec(f"{tag} may mean several LoRAs of the catalogue: {ids}; name one by its id")
    if not found:
        raise InvalidSpec(f"{tag}: no LoRA of the catalogue is called so{_near(word, known)}", missing=[network.name])
    return found[0].id


def _near(word: str, known: Iterable[Named]) -> str:
    """Say what is called alike."""
    names = {name: each.id for each in known for name in each.names}
    ids = dict.fromkeys(names[name] for name in get_close_matches(word, names))
    return f"; is it {' or '.join(ids)}?" if ids else ""


def _with_embeddings(tx: Transaction, spec: GenerationSpec, checkpoint: Model) -> GenerationSpec:
    """Add the textual inversions whose names stand in the prompts as words, as in Automatic1111."""
    prompts = f"{spec.prompt}\n{spec.negative_prompt}".lower()
    found = [
        each.id
        for each in tx.names.of(tx.session, "embedding", tx.now)
        if each.id not in spec.embeddings
        and bases.fit(each.base, checkpoint.base)
        and any(name in prompts and words_of(name).search(prompts) for name in each.names)
    ]
    return replace(spec, embeddings=(*spec.embeddings, *found)) if found else spec


def _require_fitting(session: Session, kinds: Mapping[str, str], checkpoint: Model) -> None:
    found, missing = models.find(session, kinds, is_held=True)
    problems = []
    near = models.near(session, missing)
    for model_id in missing:
        alike = f"; is it {' or '.join(near[model_id])}?" if near[model_id] else ""
        problems.append(f"{kinds[model_id]} {model_id!r} is not in the catalogue{alike}")
    for model in found:
        kind = kinds[model.id]
        if model.kind != kind:
            problems.append(f"{model.id!r} is a {model.kind}, and not a {kind}")
        elif not bases.fit(model.base, checkpoint.base, kind):
            problems.append(
                f"bases differ: the {kind} {model.id!r} is made for {model.base}, and {checkpoint.id!r} is "
                f"{checkpoint.base}"
            )
    if problems:
        raise InvalidSpec("; ".join(problems), problems=problems, missing=missing)


def about(session: Session, spec: GenerationSpec) -> dict[str, dict[str, Any]]:
    """Tell a machine what the catalogue says of an order's companions: kind, base and options, by id."""
    if not spec.companions:
        return {}
    found, _ = models.find(session, spec.companions)
    return {model.id: {"kind": model.kind, "base": model.base, "options": dict(model.options)} for model in found}


def learn_trigger_words(tx: Transaction, told: Mapping[str, Sequence[str]]) -> None:
    """Write down the words that machines have found in the files of models; only what is new is written."""
    for model in models.find(tx.session, told)[0] if told else ():
        words = list(told[model.id])
        if model.trigger_words != words:  # by a statement: it may be taken out of the catalogue at this moment
            tx.session.execute(update(Model).where(Model.id == model.id).values(trigger_words=words))
