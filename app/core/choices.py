"""What an order leaves to the server: which ControlNet, which annotator, which cut-out, and which safety checker."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from sqlalchemy.orm import Session

from app.core import bases, models
from app.core.errors import InvalidSpec
from app.core.extras import CONTROL_KINDS, USUAL, Control
from app.core.fleet import Transaction
from app.core.models import CatalogueEntry
from app.core.spec import GenerationSpec
from app.core.tables import Model

ALIASES = {
    "depth": ("midas", "midaspose"),
    "openpose": ("pose", "dwpose"),
    "mediapipe_face": ("mediapipe",),
    "mediapipe_pose": ("mediapipe",),
}
"""What a catalogue may tag models for a kind of control with, beside the kind itself."""

ANNOTATED_BY_MODELS = ("depth", "openpose")
"""Kinds whose annotators look with a model of the catalogue; the others bring what they need along."""

NOT_FOR_ALL = ("rmbg", "briaai", "bria-")
"""Names of cut-outs whose weights nobody may sell pictures of: huggingface.co/briaai, licence `bria-rmbg`."""

NOT_FOR_ALL_LICENCES = ("bria", "non-commercial", "noncommercial", "-nc")

A_CUTTER = (
    'POST /v1/models {"name": "birefnet.onnx", "kind": "onnx", "tags": ["background"], '
    '"download_url": "hf://onnx-community/BiRefNet-ONNX/onnx/model.onnx"}'
)
A_CHECKER = (
    'POST /v1/models {"name": "safety", "kind": "safety", "download_url": '
    '"hf://stable-diffusion-v1-5/stable-diffusion-v1-5?include=safety_checker/*.json'
    '&include=safety_checker/model.safetensors&include=feature_extractor/*"}'
)
A_DEPTH = "hf://onnx-community/depth-anything-v2-small/onnx/model.onnx"


def settle(tx: Transaction, spec: GenerationSpec, checkpoint: Model) -> GenerationSpec:
    """Name the models that an order leaves open: what it names stays. Raises InvalidSpec that says what to add."""
    if spec.controls:
        chosen = tuple(_with_models(tx.session, control, checkpoint) for control in spec.controls)
        spec = replace(spec, controls=chosen)
    if spec.detect in ANNOTATED_BY_MODELS and spec.detector is None:
        spec = replace(spec, detector=_annotator(tx.session, spec.detect))
    if spec.remove_background == USUAL:
        spec = replace(spec, remove_background=_cutter(tx))
    return spec


def checked(tx: Transaction, spec: GenerationSpec) -> GenerationSpec:
    """Name the safety checker, where the order or the server asks for one; also for orders that are drawn again.

    Raises InvalidSpec where there is none: nothing goes unchecked.
    """
    if spec.detect or (not spec.safety_check and not tx.limits.safety_check):  # edges and skeletons are no drawing
        return spec
    known = models.listing(tx.session, kind="safety")
    named = tx.limits.safety_model or spec.safety_checker or ""
    found = [model.id for model in known if not named or model.id == named]
    if len(found) != 1:
        raise InvalidSpec(_why_none("safety_check", "SAFETY_MODEL", named, [model.id for model in known], A_CHECKER))
    return replace(spec, safety_check=True, safety_checker=found[0])


def _why_none(field: str, setting: str, named: str, known: Sequence[str], example: str) -> str:
    if named:
        return f"{field}: {setting} is {named!r}, and no such model is in the catalogue"
    if known:
        return f"{field}: several models could do it, {', '.join(known)}; set {setting} on the server to one of them"
    return f"{field}: no model for it is in the catalogue; add one, such as: {example}"


def _cutter(tx: Transaction) -> str:
    known = models.listing(tx.session, kind="onnx")
    named = tx.limits.background_model
    if named:
        found = [model.id for model in known if model.id == named]
    else:
        found = [model.id for model in known if "background" in _words(model) and is_for_all(model)]
    if len(found) != 1:
        why = _why_none("remove_background", "BACKGROUND_MODEL", named, found, A_CUTTER)
        kept = [model.id for model in known if "background" in _words(model) and not is_for_all(model)]
        if kept and not found:
            why += (
                f"; or name {' or '.join(kept)} itself: its licence forbids commercial use, so nobody gets it unasked"
            )
        raise InvalidSpec(why)
    return found[0]


def is_for_all(model: Model) -> bool:
    """Say whether a model's licence lets everybody use it, as far as its name and `options.license` tell."""
    licence = str(model.options.get("license") or model.options.get("licence") or "").lower()
    named = f"{model.id} {model.name} {model.download_url}".lower()
    return not any(word in licence for word in NOT_FOR_ALL_LICENCES) and not any(word in named for word in NOT_FOR_ALL)


def control_kind_of(model: Model | CatalogueEntry) -> str | None:
    """Say which kind of control picture a ControlNet reads, as far as its entry or its name tells."""
    said = _words(model)
    names = {kind: {kind, *ALIASES.get(kind, ())} for kind in CONTROL_KINDS}
    told = (kind for kind, words in names.items() if words & said)
    named = (kind for kind, words in names.items() if any(word in f"{model.id} {model.name}".lower() for word in words))
    return next(told, None) or next(named, None)


def _words(model: Model | CatalogueEntry) -> set[str]:
    """Return what a model says that it is for: its tags, and the names of options that only such a model has."""
    said = {str(tag).lower() for tag in model.tags}
    for option in ("control", "annotator"):
        value = model.options.get(option)
        if isinstance(value, dict):
            value = value.get("kind")
        said |= {str(each).lower() for each in (value if isinstance(value, list) else [value]) if each}
    return said | ({"background"} if "background" in model.options else set())


def _with_models(session: Session, control: Control, checkpoint: Model) -> Control:
    if control.model_id is None:
        control = replace(control, model_id=_controlnet(session, control.kind, checkpoint))
    if control.annotate and control.annotator is None and control.kind in ANNOTATED_BY_MODELS:
        control = replace(control, annotator=_annotator(session, control.kind))
    return control


def _fitting(session: Session, kinds: Sequence[str], control: str, fits: Callable[[Model], bool]) -> list[Model]:
    wanted = {control, *ALIASES.get(control, ())}
    found = (model for kind in kinds for model in models.listing(session, kind=kind))
    return [model for model in found if _words(model) & wanted and fits(model)]


def _controlnet(session: Session, kind: str, checkpoint: Model) -> str:
    found = _fitting(session, ["controlnet"], kind, lambda model: bases.fit(model.base, checkpoint.base, "controlnet"))
    # What says its base comes before what could be anything.
    sure = [model for model in found if bases.meant_by(model.base)] or found
    if not sure:
        raise InvalidSpec(
            f"controls: no ControlNet for {kind} and {checkpoint.base or checkpoint.id} is in the catalogue; add one "
            f'of kind controlnet that is tagged {kind}, or whose options say {{"control": "{kind}"}}, or name one in '
            "model_id"
        )
    if len(sure) > 1:
        ids = ", ".join(model.id for model in sure)
        raise InvalidSpec(f"controls: several ControlNets for {kind} fit {checkpoint.id}: {ids}; name one in model_id")
    return sure[0].id


def _annotator(session: Session, kind: str) -> str | None:
    """Return what looks at photos for a kind; None lets the machine say what it lacks."""
    found = _fitting(session, ["onnx", "other"], kind, lambda _: True)
    if len(found) > 1:
        ids = ", ".join(model.id for model in found)
        raise InvalidSpec(f"controls: several models could make {kind} from a photo: {ids}; let one be tagged {kind}")
    if not found and kind == "depth":
        raise InvalidSpec(
            "controls: depth from a photo needs a model that estimates it: add one of kind onnx that is tagged depth, "
            f"such as {A_DEPTH}, or give a ready depth picture and leave annotate out"
        )
    return found[0].id if found else None
