"""One training loop for every stage: several single-thread processes, Muon, averaged weights, checkpoints.

Each process computes its own batch and the gradients are averaged; on two cores that beats two threads in one process,
because the matrices are too small to be worth dividing.
"""

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

SAVE_EVERY_S = 60.0


@dataclass(frozen=True, slots=True)
class Crew:
    """The processes that train together, and which of them this one is."""

    rank: int
    size: int
    seed: int
    work_dir: Path

    def rng(self, *salt: int) -> np.random.Generator:
        """Return random numbers that depend on the seed, this process and the salt only."""
        return np.random.default_rng([self.seed, self.rank, *salt])

    def tell(self, text: str) -> None:
        """Print a line, once for the whole crew."""
        if self.rank == 0:
            print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def together(work: Callable[..., None], crew_size: int, seed: int, work_dir: Path, *args: Any) -> None:
    """Run `work(crew, *args)` in `crew_size` processes and wait for all of them."""
    meeting = work_dir / f"meeting-{os.getpid()}"
    meeting.unlink(missing_ok=True)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # a host whose name does not resolve has no other
    crew = [Crew(rank, crew_size, seed, work_dir) for rank in range(crew_size)]
    try:
        mp.spawn(_join, (work, crew, meeting, args), nprocs=crew_size)
    finally:
        meeting.unlink(missing_ok=True)


def _join(rank: int, work: Callable[..., None], crew: list[Crew], meeting: Path, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=len(crew))
    try:
        work(crew[rank], *args)
    finally:
        dist.destroy_process_group()


class Muon:
    """Steps along the orthogonalised momentum of each matrix (Jordan et al. 2024, "Muon").

    The step is scaled by 0.2 * sqrt(longer side), so that it is as long as AdamW's (Liu et al. 2025, "Muon is
    Scalable for LLM Training"). Each process orthogonalises its share of the matrices.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], crew: Crew) -> None:
        self.parameters = list(parameters)
        self.momentum = [torch.zeros_like(p) for p in self.parameters]
        self.crew = crew

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Change the parameters once, by their averaged gradients."""
        steps = []
        for index, (parameter, momentum) in enumerate(zip(self.parameters, self.momentum, strict=True)):
            assert parameter.grad is not None
            momentum.mul_(0.95).add_(parameter.grad)
            if index % self.crew.size == self.crew.rank:
                direction = parameter.grad.add(momentum, alpha=0.95)
                steps.append(_orthogonal(direction.flatten(1)).view_as(parameter))
            else:
                steps.append(torch.zeros_like(parameter))
        _sum_over_crew(steps, self.crew)
        for parameter, step in zip(self.parameters, steps, strict=True):
            scale = 0.2 * math.sqrt(max(parameter.shape[0], parameter[0].numel()))
            parameter.mul_(1 - 0.01 * rate).sub_(step, alpha=rate * scale)


def _orthogonal(matrix: Tensor) -> Tensor:
    """Bring all singular values close to one: five Newton-Schulz steps with Muon's coefficients."""
    x = matrix.bfloat16()
    if matrix.shape[0] > matrix.shape[1]:
        x = x.T
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.T if matrix.shape[0] > matrix.shape[1] else x).float()


def _sum_over_crew(tensors: Sequence[Tensor], crew: Crew) -> None:
    if crew.size == 1 or not tensors:
        return
    flat = torch.cat([t.flatten() for t in tensors])
    dist.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


@dataclass(frozen=True, slots=True)
class Lesson:
    """How long a stage trains, and how fast."""

    name: str
    steps: int
    batch: int
    rate: float = 2e-3
    plain_rate: float = 1e-3
    memory: float = 0.998
    """How much of the averaged weights survives a step; the average is what the stage gives."""


def learn(lesson: Lesson, network: nn.Module, loss: Callable[[int], Tensor], crew: Crew) -> None:
    """Train a network until the lesson ends, going on from its checkpoint; leaves the averaged weights in it.

    `loss(step)` computes this process's loss with its own batch. Matrices go to Muon, the rest to AdamW.
    """
    path = crew.work_dir / f"{lesson.name}.pt"
    named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    matrices = [p for name, p in named if p.ndim >= 2 and "embedding" not in name]
    others = [p for name, p in named if p.ndim < 2 or "embedding" in name]
    muon = Muon(matrices, crew)
    adam = torch.optim.AdamW(others, lr=lesson.plain_rate, betas=(0.9, 0.98), weight_decay=0.0)
    average = {name: p.detach().clone() for name, p in named}
    first = 0
    if path.exists():
        saved = torch.load(path)
        first, average = saved["step"], saved["average"]
        network.load_state_dict(saved["network"])
        adam.load_state_dict(saved["adam"])
        muon.momentum = saved["muon"]
        crew.tell(f"{lesson.name}: going on from step {first}")
    network.train()
    started, saved_at, shown_at, shown_loss = time.monotonic(), time.monotonic(), first, 0.0
    for step in range(first, lesson.steps):
        torch.manual_seed(int(crew.rng(step).integers(2**31)))
        value = loss(step)
        value.backward()
        gradients = [p.grad for _, p in named if p.grad is not None]
        _sum_over_crew(gradients, crew)
        torch._foreach_div_(gradients, crew.size)
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        factor = _warm_and_cool(step, lesson.steps)
        muon.step(lesson.rate * factor)
        adam.param_groups[0]["lr"] = lesson.plain_rate * factor
        adam.step()
        network.zero_grad()
        memory = min(lesson.memory, (1 + step) / (10 + step))
        torch._foreach_lerp_([average[name] for name, _ in named], [p.detach() for _, p in named], 1 - memory)
        shown_loss += value.item()
        if (step + 1) % 100 == 0:
            pace = (time.monotonic() - started) / (step + 1 - first)
            crew.tell(
                f"{lesson.name}: step {step + 1}/{lesson.steps}, loss {shown_loss / (step + 1 - shown_at):.4f}, "
                f"{pace:.3f} s a step, {pace * (lesson.steps - step - 1) / 60:.1f} min left"
            )
            shown_at, shown_loss = step + 1, 0.0
        if crew.rank == 0 and (time.monotonic() - saved_at > SAVE_EVERY_S or step + 1 == lesson.steps):
            saved_at = time.monotonic()
            state = {"step": step + 1, "network": network.state_dict(), "average": average}
            save(path, {**state, "adam": adam.state_dict(), "muon": muon.momentum})
    network.load_state_dict(average, strict=False)
    network.eval()
    dist.barrier()


def save(path: Path, state: Any) -> None:
    """Write a checkpoint whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    torch.save(state, part)
    part.replace(path)


def averaged(path: Path) -> dict[str, Tensor]:
    """Return the averaged weights of a lesson's checkpoint."""
    weights: dict[str, Tensor] = torch.load(path)["average"]
    return weights


def _warm_and_cool(step: int, steps: int) -> float:
    """Return the factor of the learning rate: up over 50 steps, level, and down to a fiftieth in the last 40 %."""
    left = (steps - step) / (0.4 * steps)
    return min(1.0, (step + 1) / 50, max(0.02, left))
