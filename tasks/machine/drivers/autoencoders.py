"""Another autoencoder in the place of a model's own, for one order."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.machine.drivers import detect, headers
from tasks.machine.drivers.cache import Cache, Held
from tasks.machine.drivers.contract import CannotDraw, ModelFiles
from tasks.machine.drivers.loading import Loading, size_of
from tasks.machine.drivers.memory import is_shortage
from tasks.machine.drivers.pipelines import Loaded, Pipelines

log = logging.getLogger(__name__)

FIRST_OF_DECODER = ("decoder.conv_in.weight", "first_stage_model.decoder.conv_in.weight")


class Autoencoders:
    """Holds them as parts of the pipelines' cache, within its budget."""

    def __init__(self, torch: Any, device: str, pipelines: Pipelines) -> None:
        self._torch, self._device, self._pipelines = torch, device, pipelines
        self._cache: Cache[Any] = pipelines.cache

    @contextmanager
    def worn(self, loaded: Loaded, files: ModelFiles | None, *, frugal: bool = False) -> Iterator[None]:
        """Put one into a pipeline for the length of the block; None: its own stays. Raises CannotDraw."""
        if files is None:
            yield
            return
        pipeline = loaded.pipeline
        own = pipeline.vae
        other = self._get(loaded, files)
        if frugal:
            for economy in ("enable_slicing", "enable_tiling"):
                getattr(other, economy, lambda: None)()
        pipeline.vae = other
        try:
            with self._cache.drawing(files.model_id):
                yield
        finally:
            pipeline.vae = own
            if frugal:
                self._cache.drop(files.model_id)

    def _get(self, loaded: Loaded, files: ModelFiles) -> Any:
        dtype = self._pipelines.dtype_of(loaded.plan)
        identity = f"{files.proof} for {type(loaded.pipeline.vae).__name__} in {dtype}"
        known = self._cache.find(files.model_id, identity, "")
        if known is not None:
            _refuse_another_shape(known, loaded.pipeline, files)
            self._cache.bring(files.model_id)
            return known
        _refuse_by_header(loaded.pipeline, files)
        self._cache.make_room(_size_on_disk(files.path))
        network = self._load(loaded, files, dtype)
        _refuse_another_shape(network, loaded.pipeline, files)
        network = network.to(self._device)
        held: Held[Any] = Held(files.model_id, identity, "", network, (f"{files.model_id}/vae",))
        self._cache.add(held, {f"{files.model_id}/vae": (network, size_of(network))})
        log.info("the VAE %s is loaded", files.model_id)
        return network

    def _load(self, loaded: Loaded, files: ModelFiles, dtype: str) -> Any:
        """Load a file in either layout with the configuration of the model's own, or a folder with its own."""
        loading = Loading(getattr(self._torch, dtype), self._device)
        with tempfile.TemporaryDirectory(prefix="imagefleet-") as folder:
            loaded.pipeline.vae.save_config(Path(folder) / "vae")
            try:
                return loading.vae(files.path, Path(folder)).eval()
            except Exception as exc:
                # What does not fit makes diffusers raise whatever it stumbles over.
                if is_shortage(exc) or "cuda" in str(exc).lower():
                    raise
                first = str(exc).strip().partition("\n")[0] or type(exc).__name__
                raise CannotDraw(f"{files.model_id} cannot take the place of this model's VAE: {first}") from exc


def _size_on_disk(path: Path) -> int:
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def _refuse_by_header(pipeline: Any, files: ModelFiles) -> None:
    """Refuse by the file's header alone, without loading it."""
    detect.refuse_pickles([files.path.name] if files.path.suffix.lower() in detect.PICKLES else [], allowed=False)
    if files.path.is_dir():
        return
    tensors = headers.read(files.path)
    first = next((tensors[name] for name in FIRST_OF_DECODER if name in tensors), None)
    if first is not None and len(first.shape) > 1:
        _refuse_channels(first.shape[1], pipeline, files)


def _refuse_another_shape(network: Any, pipeline: Any, files: ModelFiles) -> None:
    _refuse_channels(int(network.config.latent_channels), pipeline, files)
    ours, theirs = (_factor_of(each) for each in (pipeline.vae, network))
    if ours != theirs:
        raise CannotDraw(
            f"the VAE {files.model_id} does not fit: it makes pictures {theirs} times as large as latents, and this "
            f"model's own {ours} times"
        )


def _refuse_channels(theirs: int, pipeline: Any, files: ModelFiles) -> None:
    ours = int(pipeline.vae.config.latent_channels)
    if ours != theirs:
        raise CannotDraw(
            f"the VAE {files.model_id} does not fit: it is for latents of {theirs} channels, this model's have {ours}"
        )


def _factor_of(network: Any) -> int:
    """Return how many pixels one latent makes, along one side."""
    config = network.config
    channels = config.get("block_out_channels") or config.get("encoder_block_out_channels") or [0]
    return int(2 ** (len(channels) - 1))
