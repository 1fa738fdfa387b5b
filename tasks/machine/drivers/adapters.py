"""What a model wears for one order: LoRAs, textual inversions, another autoencoder. Taken off when it is drawn."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tasks.machine.drivers.contract import CannotDraw, Order
from tasks.machine.drivers.pipelines import Loaded
from tasks.machine.drivers.prompts.reading import without_networks


@dataclass(frozen=True, slots=True)
class Worn:
    """How an order is drawn with what its model wears."""

    prompt: str
    """Without the networks that it named."""
    notes: tuple[str, ...] = ()


@contextmanager
def worn(loaded: Loaded, order: Order) -> Iterator[Worn]:  # noqa: ARG001  # what is put on is put on `loaded`
    """Put on what an order brings along, for the length of the block; raises CannotDraw for what does not fit."""
    words, networks = without_networks(order.spec.prompt)
    named = [f"<{network.kind}:{network.name}>" for network in networks]
    named += [lora.model_id for lora in order.spec.loras] + list(order.spec.embeddings)
    if order.spec.vae_id:
        named.append(order.spec.vae_id)
    if named:
        raise CannotDraw(f"{', '.join(named)}: this version draws without networks beside the model; leave them out")
    yield Worn(words)
