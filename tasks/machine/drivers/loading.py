"""Loads pipelines as a plan says: from files that are there, and never from a network.

Weights are mapped from their files, not read into a buffer first, and go straight to the device that draws.
"""

import errno
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from tasks.machine.drivers import detect, pickles
from tasks.machine.drivers.contract import CannotDraw
from tasks.machine.drivers.headers import Tensor
from tasks.machine.drivers.memory import is_shortage
from tasks.machine.drivers.plan import Component, Plan

DTYPES: Mapping[str, str] = {
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.int64": "I64",
    "torch.int32": "I32",
    "torch.uint8": "U8",
}
"""torch's types in safetensors' spelling; others count as F32."""

ABSENT: Mapping[str, Any] = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
"""What Stable Diffusion's own check of its pictures needs; it is off."""


@dataclass(frozen=True, slots=True)
class Loading:
    """How pipelines are loaded."""

    dtype: Any
    """torch's."""
    device: str
    """Where the networks go, in torch's spelling."""
    held: Callable[[str], Any | None] = lambda _key: None
    """Return a network that is in memory already, by its component's key."""

    def pipeline(self, plan: Plan) -> Any:
        """Load a pipeline. Raises CannotDraw for files that do not make one; passes on what a lack of memory raises."""
        with broken_files_refused(plan.model.model_id):
            pipeline = self._pipeline(plan)
        _refuse_holes(pipeline, plan)
        return pipeline.to(self.device)

    def _pipeline(self, plan: Plan) -> Any:
        if plan.found.layout == "single":
            return self._from_single_file(plan)
        if plan.found.layout == "folder":
            return self._from_folder(plan, plan.model.path)
        with _unpacked(plan.model.path) as folder:
            components = {name: replace(each, folder=folder) for name, each in plan.components.items()}
            return self._from_folder(replace(plan, components=components), folder)

    def _from_folder(self, plan: Plan, folder: Path) -> Any:
        import diffusers  # noqa: PLC0415  # for drawing workers only

        index = _index_of(folder)
        given = {**self._networks(plan, index), **self._other_vae(plan, folder)}
        if (index.get("safety_checker") or [None])[0] is not None:
            given |= ABSENT
        return getattr(diffusers, plan.pipeline if plan.family else "DiffusionPipeline").from_pretrained(
            folder,
            dtype=self.dtype,
            local_files_only=True,
            variant=plan.found.variant,
            use_safetensors=None if plan.found.pickled else True,
            **given,
        )

    def _from_single_file(self, plan: Plan) -> Any:
        import diffusers  # noqa: PLC0415  # for drawing workers only

        assert plan.config is not None
        index = _index_of(plan.config)
        given = {**self._networks(plan, index), **self._other_vae(plan, plan.config)}
        if "safety_checker" in index:
            given |= ABSENT
        given |= {name: None for name in ("text_encoder_3", "tokenizer_3") if name in index and _lacks_third(plan)}
        kind = getattr(diffusers, plan.pipeline)
        if not hasattr(kind, "from_single_file"):  # Sana's: the file is its transformer
            made_for = getattr(diffusers, str(index["transformer"][1]))
            given["transformer"] = made_for.from_single_file(
                str(plan.model.path),
                config=str(plan.config),
                subfolder="transformer",
                local_files_only=True,
                torch_dtype=self.dtype,
            )
            return kind.from_pretrained(plan.config, dtype=self.dtype, local_files_only=True, **given)
        return kind.from_single_file(
            str(plan.model.path),
            config=str(plan.config),
            local_files_only=True,
            torch_dtype=self.dtype,
            **given,
        )

    def _networks(self, plan: Plan, index: Mapping[str, Any]) -> dict[str, Any]:
        """Load the networks that lie in a diffusers folder, or take those that are held already."""
        found = {}
        for component in plan.components.values():
            library, name = (str(each) for each in index.get(component.name) or (None, None))
            if component.folder is None or library not in {"diffusers", "transformers"}:
                continue
            if component.name == "vae" and plan.vae is not None:
                continue
            network = self.held(component.key) if component.key else None
            found[component.name] = self._network(component, library, name) if network is None else network
        return found

    def _network(self, component: Component, library: str, name: str) -> Any:
        folder = Path(str(component.folder)) / component.name
        return getattr(import_module(library), name).from_pretrained(
            folder,
            dtype=self.dtype,
            local_files_only=True,
            variant=detect.variant_of(folder),
            use_safetensors=not component.pickled,
            **({} if self.device == "cpu" else {"device_map": self.device}),
        )

    def _other_vae(self, plan: Plan, config: Path) -> dict[str, Any]:
        """Load the autoencoder that takes the place of the model's own."""
        return {} if plan.vae is None else {"vae": self.vae(plan.vae, config)}

    def vae(self, path: Path, config: Path) -> Any:
        """Load an autoencoder: a folder, or a single file with the configuration of `config`/vae."""
        import diffusers  # noqa: PLC0415  # for drawing workers only

        if path.is_dir():
            name = str(_index_of(path, "config.json").get("_class_name", "AutoencoderKL"))
            return getattr(diffusers, name).from_pretrained(path, dtype=self.dtype, local_files_only=True)
        name = str(_index_of(config / "vae", "config.json").get("_class_name", "AutoencoderKL"))
        return getattr(diffusers, name).from_single_file(
            str(path), config=str(config), subfolder="vae", torch_dtype=self.dtype, local_files_only=True
        )


@contextmanager
def broken_files_refused(model_id: str) -> Iterator[None]:
    """Raise CannotDraw for whatever diffusers and transformers stumble over in broken files.

    What a lack of memory raises, and what this machine's disk or GPU does, is passed on.
    """
    try:
        yield
    except CannotDraw:
        raise
    except Exception as exc:
        if is_shortage(exc) or _is_the_machines(exc):
            raise
        if "meta tensor" in str(exc):  # torch's word for a network that was never filled
            raise CannotDraw(f"{model_id} lacks tensors of its networks: {INCOMPLETE}") from exc
        raise CannotDraw(f"diffusers cannot load {model_id}: {_first_line(exc)}") from exc


INCOMPLETE = "its file is incomplete, or its configuration is another model's"
NO_SUCH_FILE = (None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR)
"""What an error says when something is not there; others are of a disk that fails."""


def _is_the_machines(exc: Exception) -> bool:
    """Say whether a failure is this machine's rather than the files': another machine could do better."""
    return (isinstance(exc, OSError) and exc.errno not in NO_SUCH_FILE) or "cuda" in str(exc).lower()


def _first_line(exc: BaseException) -> str:
    return str(exc).strip().partition("\n")[0] or type(exc).__name__


def _lacks_third(plan: Plan) -> bool:
    return "text_encoder_3" not in plan.components


def _index_of(folder: Path, name: str = detect.INDEX) -> Mapping[str, Any]:
    return detect.json_of(folder / name) or {}


def _refuse_holes(pipeline: Any, plan: Plan) -> None:
    """Raise CannotDraw if a network has weights that no file brought."""
    for name, network in networks_of(pipeline).items():
        holes = [each for each, tensor in network.named_parameters() if tensor.is_meta]
        if holes:
            raise CannotDraw(
                f"{plan.model.model_id} lacks {len(holes)} tensors of its {name}, such as {holes[0]}: {INCOMPLETE}"
            )


def networks_of(pipeline: Any) -> dict[str, Any]:
    """Return the networks of a pipeline by name."""
    return {name: each for name, each in pipeline.components.items() if hasattr(each, "parameters")}


def size_of(network: Any) -> int:
    """Return what a network takes in memory, bytes."""
    tensors = [*network.parameters(), *network.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def tensors_of_pickle(path: Path) -> dict[str, Tensor]:
    """Name the tensors of a file in pickle format, without what is in them; raises CannotDraw for one that is none.

    For those who have refused pickles already where they are not allowed.
    """
    found = pickles.read(path, allowed=True, device="meta")
    return {name: Tensor(DTYPES.get(str(each.dtype), "F32"), tuple(each.shape)) for name, each in found.items()}


@contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """Lay a DDUF file out as a folder: diffusers reads nothing else. The weights stay mapped after it has gone."""
    from huggingface_hub import read_dduf_file  # noqa: PLC0415  # for drawing workers only
    from huggingface_hub.errors import DDUFError  # noqa: PLC0415  # as above

    try:
        entries = read_dduf_file(path)
    except (DDUFError, BadZipFile) as exc:
        raise CannotDraw(f"{path.name} is no DDUF file: {exc}") from exc
    with tempfile.TemporaryDirectory(prefix="imagefleet-") as folder:
        for name, entry in entries.items():
            target = Path(folder) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with entry.as_mmap() as data:
                target.write_bytes(data)
        yield Path(folder)
