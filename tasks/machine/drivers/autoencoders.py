"""Another autoencoder in the place of a model's own, for one order."""

import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tasks.machine.drivers import detect, headers
from tasks.machine.drivers.contract import CannotDraw, ModelFiles
from tasks.machine.drivers.estimate import weight_of_files
from tasks.machine.drivers.ladder import COMPUTER
from tasks.machine.drivers.loading import Loading
from tasks.machine.drivers.memory import is_shortage
from tasks.machine.drivers.pipelines import Loaded, Pipelines

FIRST_OF_DECODER = ("decoder.conv_in.weight", "first_stage_model.decoder.conv_in.weight")


class Autoencoders:
    """Holds them beside the pipelines, within their budget."""

    def __init__(self, pipelines: Pipelines) -> None:
        self._pipelines = pipelines

    @contextmanager
    def worn(self, loaded: Loaded, files: ModelFiles | None, *, frugal: bool = False) -> Iterator[None]:
        """Put one into a pipeline for the length of the block; None: its own stays. Raises CannotDraw."""
        if files is None:
            yield
            return
        pipeline, own = loaded.pipeline, loaded.pipeline.vae
        _refuse_by_header(pipeline, files, allow_pickles=self._pipelines.allow_pickles)
        with self._held(loaded, files) as other:
            for economy in ("enable_slicing", "enable_tiling") if frugal else ():
                getattr(other, economy, lambda: None)()
            pipeline.vae = other
            try:
                yield
            finally:
                pipeline.vae = own
                if frugal:  # or it would go on so with models that fit
                    self._pipelines.cache.drop(files.model_id)

    def _held(self, loaded: Loaded, files: ModelFiles) -> AbstractContextManager[Any]:
        # As its model was loaded: where that did not fit the GPU, it draws in another precision on the processor.
        dtype = str(loaded.pipeline.vae.dtype).removeprefix("torch.")
        return self._pipelines.beside(
            # A file does not say what its latents are multiplied with: that is the model's to say.
            replace(files, proof=f"{files.proof} as {_described(loaded.pipeline.vae)}"),
            dtype,
            weight_of_files(files.path, dtype),
            lambda wanted, device: self._load(loaded, files, wanted).to(device),
            on_computer=loaded.rung == COMPUTER,
        )

    def _load(self, loaded: Loaded, files: ModelFiles, dtype: Any) -> Any:
        """Load a file in either layout with the configuration of the model's own, or a folder with its own."""
        with tempfile.TemporaryDirectory(prefix="imagefleet-") as folder:
            loaded.pipeline.vae.save_config(Path(folder) / "vae")
            try:
                network = Loading(dtype, "cpu").vae(files.path, Path(folder)).eval()
            except Exception as exc:
                # What does not fit makes diffusers raise whatever it stumbles over.
                if is_shortage(exc) or "cuda" in str(exc).lower():
                    raise
                first = str(exc).strip().partition("\n")[0] or type(exc).__name__
                raise CannotDraw(f"{files.model_id} cannot take the place of this model's VAE: {first}") from exc
        _refuse_another_shape(network, loaded.pipeline, files)
        return network


def _described(network: Any) -> str:
    """Say what an autoencoder is, its weights aside."""
    config = sorted((key, value) for key, value in network.config.items() if not key.startswith("_"))
    return f"{type(network).__name__} {config}"


def _refuse_by_header(pipeline: Any, files: ModelFiles, *, allow_pickles: bool) -> None:
    """Refuse by the file's header alone, without loading it."""
    if files.path.suffix.lower() in detect.PICKLES:
        detect.refuse_pickles([files.path.name], allowed=allow_pickles)
        return
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
