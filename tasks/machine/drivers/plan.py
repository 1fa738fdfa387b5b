"""What is loaded to draw with a model, and from where: its own file, and those that it depends on. No torch here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from app.core.spec import GenerationSpec
from tasks.machine.drivers import detect
from tasks.machine.drivers.contract import CannotDraw, ModelFiles
from tasks.machine.drivers.detect import Found
from tasks.machine.drivers.families import FAMILIES, Family, settled
from tasks.machine.drivers.headers import Tensor, Tensors
from tasks.machine.drivers.orders import refuse_what_it_cannot

NEEDED: Mapping[str, tuple[str, ...]] = {
    "sd15": ("text_encoder", "unet", "vae"),
    "sd2": ("text_encoder", "unet", "vae"),
    "sdxl": ("text_encoder", "text_encoder_2", "unet", "vae"),
    "sdxl-refiner": ("text_encoder_2", "unet", "vae"),
    "sd3": ("text_encoder", "text_encoder_2", "transformer", "vae"),
    "flux-dev": ("text_encoder", "text_encoder_2", "transformer", "vae"),
    "flux-schnell": ("text_encoder", "text_encoder_2", "transformer", "vae"),
    "sana": ("text_encoder", "transformer", "vae"),
}
"""The components with weights that a family cannot draw without; SD 3 can without its third text encoder. Single files
of families that are not here cannot be read."""

LATENTS, INPAINTING = 4, 9
"""Channels that a UNet takes in: of the picture alone, and of the mask and what is masked as well."""

OPTIONAL = ("text_encoder_3",)


@dataclass(frozen=True, slots=True)
class Component:
    """One network of a pipeline."""

    name: str
    """As diffusers calls it, such as `unet`."""
    tensors: list[Tensor]
    folder: Path | None = None
    """The diffusers folder in whose folder of that name it lies; None: in the model's own single file."""
    key: str | None = None
    """Equal for equal content, so that it is held in memory once; None where that is not known."""
    pickled: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """How to load a model."""

    model: ModelFiles
    found: Found
    family: Family | None
    """None: a folder of a family that has no row, which draws with its own defaults."""
    components: Mapping[str, Component]
    config: Path | None = None
    """The configuration that a single file is loaded with: a diffusers folder."""
    vae: Path | None = None
    """An autoencoder to take the place of the model's own: a file, or a folder."""

    @property
    def task(self) -> str:
        """Return what the checkpoint was made for: to draw from text, where its family can and it takes no picture."""
        if self.family is None or self.found.channels == LATENTS:
            return "txt2img" if self.family is None else next(iter(self.family.pipelines))
        return "inpaint"

    @property
    def usual(self) -> int | None:
        """Return the side, in pixels, of what it was trained to draw; None where nobody knows."""
        return self.family.size if self.family else None

    @property
    def pipeline(self) -> str:
        """Return the class of the pipeline for that."""
        if self.family is None:
            return self.found.pipeline or "DiffusionPipeline"
        return self.family.pipelines[self.task]

    def refuse(self, spec: GenerationSpec, task: str = "txt2img") -> None:
        """Raise CannotDraw for an order that this model can never draw."""
        if self.family is not None:
            refuse_what_it_cannot(self.family, spec, task)
            if self.found.channels not in {LATENTS, INPAINTING}:
                raise CannotDraw(
                    f"{self.model.model_id} takes {self.found.channels} channels: such a network edits by instruction, "
                    "follows depth or enlarges, which this version cannot do; take one for text, or for inpainting"
                )
        if task in {"txt2img", "controlnet"} and self.task != "txt2img":
            raise CannotDraw(
                f"{self.model.model_id} was made for {self.task} and needs a picture to begin with: its network takes "
                f"{self.found.channels} channels, where drawing from text has {LATENTS}"
            )


def plan(
    model: ModelFiles, *, allow_pickles: bool = False, read_pickle: Callable[[Path], Tensors] | None = None
) -> Plan:
    """Find out how to load a model. Raises CannotDraw with what is missing or does not fit, and what to do about it.

    `read_pickle` names the tensors of a file in pickle format; without it none is read.
    """
    found = detect.look_at(model.path, allow_pickles=allow_pickles)
    if found.pickled and found.layout == "single" and read_pickle is not None:
        found = replace(detect.of_tensors(read_pickle(model.path), model.path.name), pickled=found.pickled)
    detect.refuse_pickles(found.pickled, allowed=allow_pickles)
    if found.kind != "checkpoint":
        raise CannotDraw(
            f"{model.model_id} is no checkpoint but looks like kind {found.kind}, which only goes along with one"
        )
    family = settled(found.family, model.base, model.model_id) if found.family else None
    parts = _Parts(model, allow_pickles=allow_pickles)
    if found.layout == "single":
        return _of_single_file(model, found, family or FAMILIES["sd15"], parts)
    inside = model.path if found.layout == "folder" else None
    components = {
        name: Component(name, tensors, inside, _key(model, name), pickled=not tensors)
        for name, tensors in _with_pickled(found).items()
    }
    return Plan(model, found, family, components, vae=parts.path_of("vae"))


def _with_pickled(found: Found) -> dict[str, list[Tensor]]:
    return {**{name.partition("/")[0]: [] for name in found.pickled}, **found.parts}


def _key(model: ModelFiles, component: str) -> str | None:
    """Name a component by the hashes of all files in its folder: equal configuration and weights are equal."""
    inside = {path: digest for path, digest in model.hashes.items() if path.startswith(f"{component}/")}
    return "+".join(f"{path.rpartition('/')[2]}={inside[path]}" for path in sorted(inside)) or None


class _Parts:
    """What a model depends on, by what it shows itself to be."""

    def __init__(self, model: ModelFiles, *, allow_pickles: bool) -> None:
        self.found: list[tuple[ModelFiles, Found]] = []
        for part in model.parts:
            try:
                self.found.append((part, detect.look_at(part.path, allow_pickles=allow_pickles)))
            except CannotDraw:
                continue  # a picture, a licence: what goes along with a model need not be one

    def path_of(self, kind: str) -> Path | None:
        """Return the first part of a kind."""
        return next((part.path for part, found in self.found if found.kind == kind), None)

    def packs(self) -> list[tuple[ModelFiles, Found]]:
        """Return the diffusers folders: with weights, or their configuration alone."""
        return [(part, found) for part, found in self.found if found.layout == "folder" and found.pipeline]


def _of_single_file(model: ModelFiles, found: Found, family: Family, parts: _Parts) -> Plan:
    if family.looks_like not in NEEDED:
        raise CannotDraw(
            f"{model.path.name} is a single file of {family.label}, which diffusers cannot read; take the folder, "
            f"such as hf://{family.pack}"
        )
    pack, in_pack = _pack_for(model, found, parts)
    components = {name: Component(name, tensors) for name, tensors in found.parts.items()}
    vae = parts.path_of("vae")
    needed = NEEDED[family.looks_like]
    for name in (*needed, *OPTIONAL):
        if name not in components and name in in_pack.parts:
            components[name] = Component(name, in_pack.parts[name], pack.path, _key(pack, name))
    if missing := [name for name in needed if name not in components and not (name == "vae" and vae)]:
        patterns = "".join(f"&include={name}/*" for name in missing)
        raise CannotDraw(
            f"{model.path.name} has no {' and no '.join(missing)}, and neither has {pack.model_id}: add those files to "
            f"that entry of the catalogue, such as {_address(family)}{patterns}"
        )
    return Plan(model, found, family, components, config=pack.path, vae=vae)


def _pack_for(model: ModelFiles, found: Found, parts: _Parts) -> tuple[ModelFiles, Found]:
    """Find the configuration that fits a single file: among what it depends on, or in a folder of its name beside it.

    Of a folder beside it no file is proven, so weights are not taken from there.
    """
    packs = parts.packs()
    beside = model.path.with_suffix("")
    if (beside / detect.INDEX).is_file():
        packs.append((ModelFiles(beside.name, beside, ""), replace(detect.look_at(beside), parts={})))
    fitting = [(part, each) for part, each in packs if each.family == found.family]
    if fitting:
        return fitting[0]
    family = FAMILIES[str(found.family)]
    if packs:
        part, other = packs[0]
        raise CannotDraw(
            f"{model.path.name} is one of {family.label}, and {part.model_id} is the configuration of "
            f"{FAMILIES[other.family].label if other.family else other.pipeline}: depend on one that fits, "
            f"such as {_address(family)}"
        )
    raise CannotDraw(
        f"{model.path.name} is a single file of {family.label} and needs that family's configuration to be loaded: "
        f"add an entry of kind config to the catalogue, such as {_address(family)}, and name it among what this model "
        "depends on"
    )


def _address(family: Family) -> str:
    """Return the address of a configuration, without weights, as provisioning reads it."""
    return f"hf://{family.pack}?include=*.json&include=*.txt&include=*.model"
