"""Packs the trained parts into one file with its catalogue entry, and measures how well it draws."""

import hashlib
import json
import tempfile
import time
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from huggingface_hub import read_dduf_file

from tests.shape_checker import Wishes, check, parse
from tools.demo_model import networks
from tools.demo_model.captions import ATTRIBUTES, any_scene, plain, vocabulary
from tools.demo_model.lessons import trained_autoencoder, trained_text_encoder, trained_unet
from tools.demo_model.shapes import SIDE

NAME = "demo-shapes"
STEPS, GUIDANCE = 12, 2.0


def pack(work_dir: Path, target: Path) -> None:
    """Write the trained parts as one DDUF file and, after it, the catalogue entry; both whole or not at all."""
    pipe = StableDiffusionPipeline(
        vae=trained_autoencoder(work_dir),
        text_encoder=trained_text_encoder(work_dir),
        tokenizer=networks.tokenizer(vocabulary()),
        unet=trained_unet(work_dir),
        scheduler=networks.scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    file, part = target / f"{NAME}.dduf", target / f"{NAME}.dduf.part"
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        pipe.to(torch.float16).save_pretrained(folder)
        _zip(Path(folder), part)
    read_dduf_file(part)  # raises where the file breaks the format's rules
    content = part.read_bytes()
    part.replace(file)
    entry_part = target / f"{NAME}.json.part"
    entry_part.write_text(json.dumps(entry(content), indent=2) + "\n")
    entry_part.replace(target / f"{NAME}.json")
    print(f"{file}: {len(content):,} bytes")


def _zip(folder: Path, file: Path) -> None:
    """Write a folder as a DDUF file: an uncompressed zip of a pipeline (Hugging Face, "DDUF").

    huggingface_hub writes the time of day into it; without, the same weights have the same hash.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as packed:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                packed.writestr(zipfile.ZipInfo(path.relative_to(folder).as_posix()), path.read_bytes())


def entry(content: bytes) -> dict[str, Any]:
    """Describe the file for the catalogue, with the settings that measured best."""
    return {
        "id": NAME,
        "name": f"{NAME}.dduf",
        "download_url": f"/artifacts/{NAME}.dduf",
        "size_bytes": len(content),
        "hash": f"sha256:{hashlib.sha256(content).hexdigest()}",
        "auth_required": False,
        "auth_provider": None,
        "save_path": f"checkpoints/{NAME}.dduf",
        "dependencies": [],
        "description": "A tiny Stable Diffusion that draws coloured shapes on a CPU in a second. "
        'Try "a large red circle on a blue background in the top left".',
        "kind": "checkpoint",
        "base": "sd15",
        "options": {
            "steps": {"min": 4, "max": 50, "default": STEPS},
            "guidance_scale": {"min": 1.0, "max": 10.0, "default": GUIDANCE},
            "width": {"min": 96, "max": 160, "default": SIDE},
            "height": {"min": 96, "max": 160, "default": SIDE},
            "scheduler": "DDIM",
        },
    }


def load(file: Path, folder: Path, dtype: torch.dtype = torch.float32) -> StableDiffusionPipeline:
    """Open a released file as a machine does: unpack it, then read the folder."""
    with zipfile.ZipFile(file) as packed:
        packed.extractall(folder)
    pipe = StableDiffusionPipeline.from_pretrained(folder, dtype=dtype, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@dataclass(frozen=True, slots=True)
class Marks:
    """How many pictures of an examination are right, by attribute, and how long one took."""

    count: int
    right: Counter[str]
    misses: list[str]
    seconds: float

    def show(self) -> None:
        """Print the wrong pictures and the shares."""
        print("\n".join(self.misses))
        print(f"{self.count} prompts, {self.seconds:.2f} s a picture")
        for name in (*ATTRIBUTES, "all"):
            print(f"  {name:<10} {self.right[name] / self.count:6.1%}")


def measure(
    file: Path,
    count: int,
    *,
    batch: int = 1,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    scheduler: str = "DDIMScheduler",
) -> Marks:
    """Draw scenes that were held out, through the released file, and look at the pictures.

    Prompts have the documented form; half of those with a medium or large figure leave the size open.
    """
    rng, right, misses = np.random.default_rng(1), Counter[str](), list[str]()
    with tempfile.TemporaryDirectory() as folder:
        pipe = load(file, Path(folder))
    pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
    pipe("warm up", num_inference_steps=2)
    seconds = 0.0
    for first in range(0, count, batch):
        scenes = [any_scene(rng, unseen=True) for _ in range(batch)]
        prompts = [
            plain(s, size=s.size == "small" or bool(rng.random() < 0.5), place=s.place != "center") for s in scenes
        ]
        generators = [torch.Generator().manual_seed(first + i) for i in range(batch)]
        started = time.perf_counter()
        pictures = pipe(prompts, num_inference_steps=steps, guidance_scale=guidance, generator=generators).images
        seconds += time.perf_counter() - started
        for scene, prompt, picture in zip(scenes, prompts, pictures, strict=True):
            found = check(picture, Wishes(scene.colour, scene.background, scene.shape, parse(prompt).size, scene.place))
            right.update(set(ATTRIBUTES) - set(found.wrong))
            right["all"] += not found.wrong
            if found.wrong:
                misses.append(f"{prompt}: {found}")
    return Marks(count, right, misses, seconds / count)
