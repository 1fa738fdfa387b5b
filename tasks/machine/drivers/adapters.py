"""What a model wears for one order: LoRAs, textual inversions, another autoencoder. Taken off when it is drawn.

Networks are shared by models, so that all is taken off whatever happens, and to the bit: LoRAs are layers of their own
around those of the network, never added into its weights; vectors are never written into an embedding matrix.
"""

import logging
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from app.core.extras import Lora
from app.core.prompt_tags import without_networks
from tasks.machine.drivers import lora_files
from tasks.machine.drivers.autoencoders import Autoencoders
from tasks.machine.drivers.contract import CannotDraw, Order
from tasks.machine.drivers.inversions import Vectors, vectors_of
from tasks.machine.drivers.lora_files import Adapter, Layer
from tasks.machine.drivers.pipelines import Loaded, Pipelines

log = logging.getLogger(__name__)

KEPT_BYTES = 1_000_000_000
"""So much of LoRAs that were worn last is kept in the computer's memory: some five of XL's."""


@dataclass(frozen=True, slots=True)
class Worn:
    """How an order is drawn with what its model wears."""

    prompt: str
    """Without the networks that it named."""
    notes: tuple[str, ...] = ()
    vectors: Vectors = field(default_factory=dict)
    """Of textual inversions, for the prompts' encoding."""
    identity: str = ""
    """Changes when anything that is worn does: what is kept of a prompt's encoding is another one's then."""


class Wardrobe:
    """Puts on what orders bring along. One thread draws."""

    def __init__(self, pipelines: Pipelines, *, allow_pickles: bool = False) -> None:
        self._allow_pickles = allow_pickles
        self._autoencoders = Autoencoders(pipelines)
        self._kept: OrderedDict[str, Adapter] = OrderedDict()

    @contextmanager
    def worn(self, loaded: Loaded, order: Order) -> Iterator[Worn]:
        """Put on what an order brings along, for the length of the block; raises CannotDraw for what does not fit."""
        spec, companions = order.spec, order.companions
        words = words_of(order)
        vectors = vectors_of(loaded.pipeline, companions, spec.embeddings, allow_pickles=self._allow_pickles)
        adapters = [(lora, self._adapter(loaded, order, lora)) for lora in spec.loras]
        notes = tuple(note for _, adapter in adapters for note in adapter.notes)
        vae = companions[spec.vae_id] if spec.vae_id else None
        with self._autoencoders.worn(loaded, vae, frugal=order.frugal), self._put_on(loaded.pipeline, adapters):
            yield Worn(words, notes, vectors, _identity(order))

    def clear(self) -> None:
        """Forget the LoRAs that were worn last."""
        self._kept.clear()

    def _adapter(self, loaded: Loaded, order: Order, lora: Lora) -> Adapter:
        """Read a LoRA for a model, or find it among those worn last."""
        files = order.companions[lora.model_id]
        family = loaded.family.name if loaded.family else str(loaded.plan.found.pipeline)
        key = f"{files.proof} for {order.model.identity}"
        found = self._kept.pop(key, None)
        if found is None:
            found = lora_files.read(
                files.path, lora.model_id, loaded.pipeline, family, allow_pickles=self._allow_pickles
            )
        self._kept[key] = found
        while len(self._kept) > 1 and sum(each.size for each in self._kept.values()) > KEPT_BYTES:
            self._kept.popitem(last=False)
        return found

    @contextmanager
    def _put_on(self, pipeline: Any, adapters: Sequence[tuple[Lora, Adapter]]) -> Iterator[None]:
        """Put layers around those of the networks; without weight there are none, which is no LoRA to the bit."""
        wanted: dict[str, list[tuple[str, Mapping[str, Layer], float]]] = {}
        for position, (lora, adapter) in enumerate(adapters):
            for component, layers in adapter.layers.items():
                if weight := _weight_for(component, lora):
                    wanted.setdefault(component, []).append((f"lora{position}", layers, weight))
        networks = {component: getattr(pipeline, component) for component in wanted}
        try:
            for component, worn in wanted.items():
                _inject(networks[component], worn)
            yield
        finally:
            for network in networks.values():
                _take_off(network)


def words_of(order: Order) -> str:
    """Return the prompt without the networks it names; they are among the order's LoRAs by now. Raises CannotDraw."""
    words, networks = without_networks(order.spec.prompt)
    for network in networks:
        if network.kind == "hypernet":
            raise CannotDraw(f"<hypernet:{network.name}>: hypernetworks cannot be drawn with; leave it out")
        if not order.spec.loras:
            raise CannotDraw(f"<{network.kind}:{network.name}> is named in the prompt, and the order does not bring it")
    return words


def _weight_for(component: str, lora: Lora) -> float:
    is_text = component.startswith("text_encoder")
    return lora.weight if lora.text_weight is None or not is_text else lora.text_weight


def _identity(order: Order) -> str:
    spec, companions = order.spec, order.companions
    worn = [f"{companions[lora.model_id].proof}:{lora.weight}:{lora.text_weight}" for lora in spec.loras]
    return "+".join([*worn, *(companions[each].proof for each in spec.embeddings)])


def _inject(network: Any, worn: Sequence[tuple[str, Mapping[str, Layer], float]]) -> None:
    """Let PEFT put its layers around a network's."""
    from diffusers.utils.peft_utils import set_weights_and_activate_adapters  # noqa: PLC0415  # for drawing workers only
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict  # noqa: PLC0415  # as above

    for name, layers, _ in worn:
        ranks = {module: int(layer.down.shape[0]) for module, layer in layers.items()}
        usual = next(iter(ranks.values()))
        # PEFT tries every pattern for every layer: half a second for an XL, where one rank is nearly always all.
        others = {f"^{module}": rank for module, rank in ranks.items() if rank != usual}
        config = LoraConfig(
            r=usual,
            lora_alpha=usual,
            # The scale is in the matrices already: alpha is the rank.
            rank_pattern=others,
            alpha_pattern=others,
            target_modules=list(layers),
            use_dora=any(layer.magnitude is not None for layer in layers.values()),
        )
        state = _state_of(network, layers)
        with warnings.catch_warnings():
            # Several at once are meant.
            warnings.filterwarnings("ignore", "Already found a `peft_config` attribute", UserWarning)
            inject_adapter_in_model(config, network, adapter_name=name, state_dict=state, low_cpu_mem_usage=True)
        set_peft_model_state_dict(network, state, adapter_name=name, low_cpu_mem_usage=True)
    names, weights = [name for name, _, _ in worn], [weight for _, _, weight in worn]
    set_weights_and_activate_adapters(network, names, weights)
    _bring_layers_as_they_are_now(network)


def _state_of(network: Any, layers: Mapping[str, Layer]) -> dict[str, Any]:
    """Name a LoRA's tensors as PEFT does, in the precision and on the device of the layers they belong to."""
    state = {}
    for module, layer in layers.items():
        found = network.get_submodule(module)
        weight = getattr(found, "base_layer", found).weight
        magnitude = layer.magnitude
        if magnitude is not None and weight.ndim > 2:  # as PEFT has it for convolutions
            magnitude = magnitude.reshape(1, -1, *[1] * (weight.ndim - 2))
        parts = {"lora_A.weight": layer.down, "lora_B.weight": layer.up, "lora_magnitude_vector": magnitude}
        for part, tensor in parts.items():
            if tensor is not None:
                state[f"{module}.{part}"] = tensor.to(device=weight.device, dtype=weight.dtype)
    return state


def _take_off(network: Any) -> None:
    """Put a network's own layers back in their places, also after half of a LoRA."""
    from diffusers.utils.peft_utils import recurse_remove_peft_layers  # noqa: PLC0415  # for drawing workers only

    recurse_remove_peft_layers(network)
    if hasattr(network, "peft_config"):
        del network.peft_config
    _bring_layers_as_they_are_now(network)


def _bring_layers_as_they_are_now(network: Any) -> None:
    """Let a network whose layers are brought to the device one by one know of those that came or went."""
    from diffusers.hooks import group_offloading  # noqa: PLC0415  # for drawing workers only

    group_offloading._maybe_remove_and_reapply_group_offloading(network)  # noqa: SLF001  # as diffusers' own loaders do
