"""The part of `make bench-pictures` about a picture that takes as long as one usually does: some ten seconds.

    python -m tests.bench.pictures --only typical

A network of Stable Diffusion 1.5's shape, a fifth as wide, with random weights made on the spot, draws 256 x 256 pixels
in as many steps as take about SECONDS on this computer. It has one thread: as on a GPU, what draws and what serves are
not in each other's way as long as another core is free.
"""

import base64
import io
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any

import requests
import yaml
from PIL import Image

from app.core import alike
from app.core.spec import GenerationSpec
from tasks.machine.drivers import make_driver
from tasks.machine.drivers.contract import DriverSettings, ModelFiles, Order
from tasks.machine.encode import encode
from tasks.machine.widths import SURE_AFTER, Widths
from tests.bench.pictures_serving import MACHINE, Draw, cpu_of, fleet, taken_along, timed
from tests.support.servers import Up

MODEL = "typical"
SECONDS = 10.0
SIDE = 256
WIDTH = 64
"""Channels of the first block; Stable Diffusion 1.5 has 320."""
TEXT_WIDTH = 256
ROUNDS = 3
TOGETHER = 4
PROMPT = "a large red circle on a blue background"
GUIDANCE = 7.5
MOST_STEPS = 150
ORDERED = ("model_id", "scheduler", "guidance_scale", "seed", "steps", "width", "height")
WHOLE_WAY = "Imagefleet, HTTP to PNG"


@dataclass(frozen=True)
class Bench:
    """What is drawn."""

    folder: Path
    """Of the pipeline."""
    steps: int

    def spec(self, seed: int) -> GenerationSpec:
        """Return the order of a picture."""
        known = {"model_id": MODEL, "prompt": PROMPT, "scheduler": "Euler", "guidance_scale": GUIDANCE}
        return GenerationSpec(**known, seed=seed, steps=self.steps, width=SIDE, height=SIDE)  # type: ignore[arg-type]  # see above

    @property
    def packed(self) -> Path:
        """Return its single file."""
        return self.folder.with_suffix(".dduf")


class Bare:
    """What a user would write first."""

    def __init__(self, folder: Path) -> None:
        import torch  # noqa: PLC0415  # after OMP_NUM_THREADS is set
        from diffusers import DiffusionPipeline  # noqa: PLC0415  # as above

        torch.set_num_threads(1)
        self._torch = torch
        self.pipeline: Any = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
        self.pipeline.set_progress_bar_config(disable=True)

    def draw(self, seed: int, steps: int, together: int = 1) -> None:
        """Draw, and write the files, as nobody wants pictures in memory."""
        found = self.pipeline(
            [PROMPT] * together,
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            width=SIDE,
            height=SIDE,
            generator=[self._torch.Generator().manual_seed(seed + k) for k in range(together)],
        )
        for image in found.images:
            image.save(io.BytesIO(), "PNG")


def main(folder: Path, seconds: float = SECONDS, rounds: int = ROUNDS) -> None:
    """Measure, and print tables."""
    bench, bare = _made(folder / "pipeline", seconds)
    ways = {
        "bare diffusers loop": lambda seed: bare.draw(seed, bench.steps),
        "our driver, in process": _ours(bench),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in (*ways, WHOLE_WAY)}
    splits: list[dict[str, float]] = []
    print(f"{rounds} rounds in turns, so that all see the same load; medians\n")
    with _served(folder / "alone", bench, BATCH_DELAY_SECONDS="0") as up:
        _asked(up, bench, 0)
        for seed in range(rounds):
            for name, draw in ways.items():
                found[name].append(timed(draw, seed))
            cpu = cpu_of(up.process.pid)
            asked, answered = _asked(up, bench, seed)
            found[WHOLE_WAY].append((answered - asked, cpu_of(up.process.pid) - cpu))
            splits.append(_split(up, seed, asked, answered))
        alone = _print_one_by_one(found)
        _print_split(splits, alone)
        print("\n| pictures that wait | s a picture | against the bare loop |\n|---|---:|---:|")
        print(f"| bare loop, one after the other | {alone:.2f} | 100.0 % |")
        _print_waiting(f"Imagefleet, {rounds} at once, each drawn alone", _at_once(up, bench, rounds), alone)
    in_one_call = timed(partial(bare.draw, steps=bench.steps, together=TOGETHER), 0)[0] / TOGETHER
    _print_waiting(f"bare loop, {TOGETHER} in one call", in_one_call, alone)
    _teach(folder / "together", bench)
    with _served(folder / "together", bench) as up:
        _asked(up, bench, 0)
        before = taken_along(up)
        seconds = _at_once(up, bench, TOGETHER)
        _print_waiting(
            f"Imagefleet, {TOGETHER} at once, {taken_along(up) - before + 1:.0f} in one pass", seconds, alone
        )


def _ours(bench: Bench) -> Draw:
    driver = make_driver("diffusers", DriverSettings(device="cpu"))
    model = ModelFiles(MODEL, bench.packed, "typical")

    def draw(seed: int) -> None:
        for picture in driver.draw(Order(bench.spec(seed), model), lambda _: None):
            encode(picture, bench.spec(seed))

    list(driver.draw(Order(replace(bench.spec(0), steps=2), model), lambda _: None))
    return draw


def _print_one_by_one(found: Mapping[str, Sequence[tuple[float, float]]]) -> float:
    """Print what a picture takes in each way; returns the first one's seconds."""
    first = next(iter(found.values()))
    print("| one picture at a time | s | against the bare loop | CPU s, all processes | beside the bare loop's |")
    print("|---|---:|---:|---:|---:|")
    for name, pairs in found.items():
        wall, cpu = median(wall for wall, _ in pairs), median(cpu for _, cpu in pairs)
        ratio = median(wall / bare for (wall, _), (bare, _) in zip(pairs, first, strict=True))
        more = median(cpu - bare for (_, cpu), (_, bare) in zip(pairs, first, strict=True))
        print(f"| {name} | {wall:.2f} | {100 * ratio:.1f} % | {cpu:.2f} | {more:+.2f} |", flush=True)
    return median(wall for wall, _ in first)


def _print_split(splits: Sequence[Mapping[str, float]], alone: float) -> None:
    print("\n| where the time of the whole way goes | ms | of the bare loop's picture |\n|---|---:|---:|")
    for name in splits[0]:
        seconds = median(split.get(name, 0.0) for split in splits)
        print(f"| {name} | {1000 * seconds:.0f} | {100 * seconds / alone:.2f} % |")


def _print_waiting(name: str, seconds: float, alone: float) -> None:
    print(f"| {name} | {seconds:.2f} | {100 * seconds / alone:.1f} % |", flush=True)


def _at_once(up: Up, bench: Bench, count: int) -> float:
    """Let so many clients ask at once; returns the seconds of each picture."""
    with ThreadPoolExecutor(count) as pool:
        began = time.perf_counter()
        list(pool.map(partial(_asked, up, bench), range(count)))
        return (time.perf_counter() - began) / count


def _in_one_request(up: Up, bench: Bench) -> float:
    """Order so many pictures that they all wait at the same moment; returns the seconds of each."""
    order = {name: value for name, value in bench.spec(0).to_json().items() if name in ORDERED and value is not None}
    began = time.perf_counter()
    for job in up.post("v1/jobs", {**order, "prompts": [PROMPT] * TOGETHER})["jobs"]:
        assert up.ended(job["job_id"], 600)["status"] == "completed"
    return (time.perf_counter() - began) / TOGETHER


def _asked(up: Up, bench: Bench, seed: int) -> tuple[float, float]:
    """Order a picture and wait for its file in one request; returns when it was asked for and when it was there."""
    spec = bench.spec(seed)
    body = {name: getattr(spec, name) for name in ("prompt", "seed", "steps", "width", "height")}
    wanted = {"sampler_name": "Euler", "cfg_scale": GUIDANCE, "override_settings": {"sd_model_checkpoint": MODEL}}
    asked = time.time()
    answer = requests.post(f"{up.url}/a1111/sdapi/v1/txt2img", json=body | wanted, timeout=600)
    answered = time.time()
    assert answer.ok, answer.text
    with Image.open(io.BytesIO(base64.b64decode(answer.json()["images"][0]))) as picture:
        assert (picture.format, picture.size) == ("PNG", (SIDE, SIDE))
    return asked, answered


def _split(up: Up, seed: int, asked: float, answered: float) -> dict[str, float]:
    """Say where the time of a picture went, in seconds."""
    job = up.get(f"v1/jobs/{_last_of(up, seed)}")
    attempt = job["attempts"][-1]
    begun, ended = (datetime.fromisoformat(moment).timestamp() for moment in (attempt["started_at"], job["ended_at"]))
    phases = {name: seconds for name, seconds in attempt["timings"].items() if name != "queued"}
    told = {"noted as ended": max(0.0, ended - begun - sum(phases.values())), "answered": answered - ended}
    return {"asked until begun": begun - asked, **phases, **told}


def _last_of(up: Up, seed: int) -> str:
    jobs: list[dict[str, Any]] = up.get("v1/jobs?limit=10")["jobs"]
    return str(next(job["job_id"] for job in jobs if up.get(f"v1/jobs/{job['job_id']}")["parameters"]["seed"] == seed))


@contextmanager
def _served(folder: Path, bench: Bench, **more: str) -> Iterator[Up]:
    folder.mkdir(exist_ok=True)
    entry = {
        "id": MODEL,
        "name": bench.packed.name,
        "base": "sd15",
        "download_url": f"file://{bench.packed}",
        "save_path": f"checkpoints/{bench.packed.name}",
        "hash": f"sha256:{sha256(bench.packed.read_bytes()).hexdigest()}",
    }
    (folder / "config.yaml").write_text(yaml.safe_dump({"models": [entry]}))
    with fleet(folder, MODEL, **more) as up:
        yield up


def _teach(folder: Path, bench: Bench) -> None:
    """Have a machine know from its start that such pictures are drawn together, which takes minutes to find out."""
    widths = Widths(TOGETHER, 3600.0, folder / "learnt" / MACHINE / "widths.json")
    for width in (1, 2, 4):
        for _ in range(SURE_AFTER + 1):
            widths.learn(alike.kind_of(bench.spec(0)), width, 1.0)


def _made(folder: Path, seconds: float) -> tuple[Bench, Bare]:
    """Make the pipeline, and find out how many steps take so many seconds."""
    from huggingface_hub import export_folder_as_dduf  # noqa: PLC0415  # of this alone

    _build(folder)
    export_folder_as_dduf(folder.with_suffix(".dduf"), folder)
    bare = Bare(folder)
    bare.draw(0, 2)
    few, more = (timed(partial(bare.draw, steps=steps), 0)[0] for steps in (2, 6))
    step = max((more - few) / 4, 0.001)
    steps = max(2, min(MOST_STEPS, round((seconds - few) / step) + 2))
    numbers = sum(each.numel() for each in bare.pipeline.unet.parameters())
    print(
        f"\nA typical picture: Stable Diffusion 1.5's shape, {numbers / 1e6:.0f} million random numbers in its UNet, "
        f"{SIDE} x {SIDE}, {steps} steps with guidance, one thread; ",
        end="",
    )
    return Bench(folder, steps), bare


def _build(folder: Path) -> None:
    import torch  # noqa: PLC0415  # after OMP_NUM_THREADS is set
    from diffusers import (  # noqa: PLC0415  # as above
        AutoencoderKL,
        EulerDiscreteScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextModel  # noqa: PLC0415  # as above

    from tests.support import zoo  # noqa: PLC0415  # as above

    def build() -> Any:
        tokenizer = zoo.clip_tokenizer()
        return StableDiffusionPipeline(
            vae=AutoencoderKL(
                block_out_channels=(16, 32, 64, 64),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                layers_per_block=2,
                latent_channels=4,
                norm_num_groups=16,
            ),
            text_encoder=CLIPTextModel(zoo.clip_config(tokenizer, layers=6, width=TEXT_WIDTH)),
            tokenizer=tokenizer,
            unet=UNet2DConditionModel(
                sample_size=SIDE // 8,
                block_out_channels=(WIDTH, 2 * WIDTH, 4 * WIDTH, 4 * WIDTH),
                cross_attention_dim=TEXT_WIDTH,
            ),
            scheduler=EulerDiscreteScheduler(
                beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )

    torch.set_num_threads(1)
    zoo.saved(folder, build)
