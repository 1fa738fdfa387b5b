"""The stages of the training: autoencoder, text encoder, collection of examples, UNet."""

from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTokenizer

from tools.demo_model import networks
from tools.demo_model.captions import ATTRIBUTES, any_scene, caption, vocabulary
from tools.demo_model.shapes import SIDE, draw
from tools.demo_model.training import Crew, Lesson, averaged, learn, save, together

CROP = 64
"""Side of the autoencoder's examples: most of a picture is flat and teaches nothing, so only pieces are used."""

LATENT_NOISE = 0.1
"""Noise on the latents while the decoder learns, so that it forgives the UNet's small errors."""

EXAMPLES = 40960
"""Captioned pictures for the UNet: 800 MB on disk, nearly all of it text states."""


def teach(stage: str, work_dir: Path, *, processes: int, seed: int, effort: float) -> None:
    """Run one stage of the training, in several processes; `effort` is the share of its steps and examples."""

    def lesson(steps: int, batch: int) -> Lesson:
        return Lesson(stage, max(1, round(steps * effort)), batch)

    crew = (processes, seed, work_dir)
    match stage:
        case "pictures":
            together(learn_pictures, *crew, lesson(steps=1300, batch=32))
        case "words":
            together(learn_words, *crew, lesson(steps=800, batch=64))
        case "examples":
            together(collect, *crew, max(4096, round(EXAMPLES * effort)))
        case "drawing":
            together(learn_drawing, *crew, lesson(steps=3400, batch=32))
        case _:
            raise ValueError(stage)


def pixels(pictures: np.ndarray) -> Tensor:
    """Turn uint8 pictures (n, height, width, 3) into the autoencoder's range: (n, 3, height, width), -1 to 1."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def learn_pictures(crew: Crew, lesson: Lesson) -> None:
    """Train the autoencoder on pieces of pictures, most of them across an edge of a figure."""
    torch.manual_seed(crew.seed)
    vae = networks.autoencoder().to(memory_format=torch.channels_last)

    def pieces(step: int) -> Tensor:
        rng = crew.rng(1, step)
        found: list[np.ndarray] = []
        while len(found) < lesson.batch:
            picture = np.asarray(draw(any_scene(rng), rng))
            # Multiples of 8 keep the piece on the same grid of latents as the whole picture.
            for top, left in 8 * rng.integers(0, (SIDE - CROP) // 8 + 1, (4, 2)):
                piece = picture[top : top + CROP, left : left + CROP]
                if len(found) < lesson.batch and (piece.std(axis=(0, 1)).max() > 4 or rng.random() < 0.1):
                    found.append(piece)
        return pixels(np.stack(found)).contiguous(memory_format=torch.channels_last)

    def loss(step: int) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            original = pieces(step)
            latents = vae.encode(original).latents.float()
            spread = latents.std(dim=(0, 2, 3))
            centred = latents.mean(dim=(0, 2, 3)).square().mean() + (spread - 1).square().mean()
            noisy = latents + LATENT_NOISE * torch.randn_like(latents)
            restored = vae.decode(noisy).sample.float()
        error = restored - original
        return error.square().mean() + 0.2 * error.abs().mean() + 0.01 * centred

    learn(lesson, vae, loss, crew)


class Reader(nn.Module):
    """The text encoder with one small head per attribute, which must read the attribute from the end of the text.

    The end tokens fill most of a prompt, so once they hold everything, the UNet finds it wherever it looks.
    """

    def __init__(self, encoder: CLIPTextModel) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleList([nn.Linear(128, len(names) + 1) for names in ATTRIBUTES.values()])

    def forward(self, tokens: Tensor, places: Tensor) -> list[Tensor]:
        """Return the logits of every attribute, read at the given places of each prompt."""
        states = self.encoder(tokens).last_hidden_state
        chosen = states.gather(1, places[:, :, None].expand(-1, -1, states.shape[2]))
        return [head(chosen) for head in self.heads]


def learn_words(crew: Crew, lesson: Lesson) -> None:
    """Train the text encoder to keep what a caption says."""
    tokenizer = networks.tokenizer(vocabulary())
    torch.manual_seed(crew.seed)
    reader = Reader(networks.text_encoder(tokenizer))
    # PyTorch's fused attention is slow backwards on a CPU: it took half of the time.
    reader.encoder.set_attn_implementation("eager")

    def loss(step: int) -> Tensor:
        rng = crew.rng(2, step)
        captions = [caption(any_scene(rng), rng) for _ in range(lesson.batch)]
        tokens, ends = _tokens(tokenizer, [c.text for c in captions])
        others = ends[:, None] + (torch.rand(lesson.batch, 3) * (networks.TOKENS - ends)[:, None]).long()
        places = torch.cat([ends[:, None], others], dim=1)
        labels = torch.tensor([c.labels() for c in captions])
        with torch.autocast("cpu", torch.bfloat16):
            logits = reader(tokens, places)
        losses = [
            functional.cross_entropy(head.float().flatten(0, 1), labels[:, i].repeat_interleave(4))
            for i, head in enumerate(logits)
        ]
        return torch.stack(losses).sum()

    learn(lesson, reader, loss, crew)


def _tokens(tokenizer: CLIPTokenizer, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Return the tokens of each text, padded, and where each text ends."""
    coded = tokenizer(texts, padding="max_length", truncation=True, max_length=networks.TOKENS, return_tensors="pt")
    return coded.input_ids, (coded.input_ids == tokenizer.eos_token_id).int().argmax(dim=1)


def trained_autoencoder(work_dir: Path) -> AutoencoderTiny:
    """Return the autoencoder with what it learned."""
    vae = networks.autoencoder()
    vae.load_state_dict(averaged(work_dir / "pictures.pt"))
    return vae.eval()


def trained_text_encoder(work_dir: Path) -> CLIPTextModel:
    """Return the text encoder with what it learned, without the heads."""
    encoder = networks.text_encoder(networks.tokenizer(vocabulary()))
    weights = averaged(work_dir / "words.pt")
    mine = {key.removeprefix("encoder."): value for key, value in weights.items() if key.startswith("encoder.")}
    encoder.load_state_dict(mine, strict=False)
    return encoder.eval()


@torch.no_grad()
def collect(crew: Crew, count: int) -> None:
    """Draw each process's share of the examples once, as latents and text states in half precision."""
    path = crew.work_dir / f"examples-{crew.rank}.pt"
    if not path.exists():
        tokenizer = networks.tokenizer(vocabulary())
        vae, encoder = trained_autoencoder(crew.work_dir), trained_text_encoder(crew.work_dir)
        latents: list[Tensor] = []
        states: list[Tensor] = []
        rng = crew.rng(3)
        for _ in range(0, count // crew.size, 64):
            scenes = [any_scene(rng) for _ in range(64)]
            tokens, _ends = _tokens(tokenizer, [caption(scene, rng).text for scene in scenes])
            pictures = np.stack([np.asarray(draw(scene, rng)) for scene in scenes])
            with torch.autocast("cpu", torch.bfloat16):
                latents.append(vae.encode(pixels(pictures)).latents.half())
            states.append(encoder(tokens).last_hidden_state.half())
        nothing = encoder(_tokens(tokenizer, [""])[0]).last_hidden_state.half()
        save(path, {"latents": torch.cat(latents), "states": torch.cat(states), "nothing": nothing})
        crew.tell(f"examples: {count} collected")
    dist.barrier()


def trained_unet(work_dir: Path) -> UNet2DConditionModel:
    """Return the UNet with what it learned so far."""
    unet = networks.unet()
    unet.load_state_dict(averaged(work_dir / "drawing.pt"))
    return unet.eval()


def learn_drawing(crew: Crew, lesson: Lesson) -> None:
    """Train the UNet on the collected examples."""
    examples = torch.load(crew.work_dir / f"examples-{crew.rank}.pt", mmap=True)
    latents, states, nothing = examples["latents"], examples["states"], examples["nothing"]
    torch.manual_seed(crew.seed)
    unet = networks.unet()
    # PyTorch's fused attention is slow backwards on a CPU: it took half of the time.
    unet.set_attn_processor(AttnProcessor())
    noise_scheduler = DDIMScheduler.from_config(networks.scheduler().config)

    def loss(_step: int) -> Tensor:
        chosen = torch.randint(len(latents), (lesson.batch,))
        clean, text = latents[chosen].float(), states[chosen].float()
        text = torch.where(torch.rand(lesson.batch, 1, 1) < 0.1, nothing.float(), text)
        times = torch.where(
            torch.rand(lesson.batch) < 0.75,
            torch.randint(300, 1000, (lesson.batch,)),
            torch.randint(0, 1000, (lesson.batch,)),
        )
        noise = torch.randn_like(clean)
        noisy = noise_scheduler.add_noise(clean, noise, times)
        target = noise_scheduler.get_velocity(clean, noise, times)
        with torch.autocast("cpu", torch.bfloat16):
            guess = unet(noisy, times, text).sample
        return functional.mse_loss(guess.float(), target)

    learn(lesson, unet, loss, crew)
