"""The loop that every stage shares: resume exactly, learn, average, look, keep.

A stage knows its data and its loss; the trainer knows steps, optimiser, averages and files. What a step sees
is drawn from (seed, step) alone, so a run that was stopped anywhere goes on as if it had not been.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Protocol

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, distributed, nn
from torch.utils.tensorboard import SummaryWriter


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long and how fast a stage learns.

    Attributes:
        steps: Optimiser steps in all.
        batch: Samples in a step.
        learning_rate: Peak; reached after `warmup` steps, held, then let down to 0 over the last
            `decay` share of the steps.
        ema: Share of the old average kept at each step.
        bfloat16: Multiply matrices in bfloat16, keep weights in float32.
        save_every: Steps between states that a run can resume from.
        look_every: Steps between evaluations.
    """

    steps: int
    batch: int
    learning_rate: float
    warmup: int = 200
    decay: float = 0.3
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.999
    seed: int = 0
    bfloat16: bool = True
    save_every: int = 500
    look_every: int = 1000

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        rise = min(1.0, (step + 1) / self.warmup)
        fall = min(1.0, (self.steps - step) / max(1.0, self.decay * self.steps))
        return self.learning_rate * rise * fall


class Stage(Protocol):
    """What is learnt in one stage."""

    name: str
    module: nn.Module

    def loss(self, rng: Random, generator: torch.Generator, batch: int) -> tuple[Tensor, dict[str, float]]:
        """Draw a batch and return the loss to lower and figures to log."""
        ...

    def look(self, folder: Path, step: int) -> dict[str, float]:
        """Evaluate the averaged weights: write a contact sheet, return figures to log."""
        ...


class Average:
    """Exponential moving average of a module's trained parameters, in float32."""

    def __init__(self, module: nn.Module) -> None:
        self.shadow = {name: p.detach().clone() for name, p in _trained(module)}
        self.steps = 0

    def update(self, module: nn.Module, keep: float) -> None:
        """Move the average towards the module; early steps count more, as keep <= (1+n)/(10+n)."""
        self.steps += 1
        keep = min(keep, (1 + self.steps) / (10 + self.steps))
        names, values = zip(*_trained(module), strict=True)
        torch._foreach_lerp_([self.shadow[name] for name in names], [v.detach() for v in values], 1 - keep)

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """Put the average into the module for a while."""
        kept = {name: p.detach().clone() for name, p in _trained(module)}
        try:
            fill(module, self.shadow)
            yield
        finally:
            fill(module, kept)


@torch.no_grad()
def fill(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Put values into a module's trained parameters."""
    for name, p in _trained(module):
        p.copy_(values[name])


def _trained(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in module.named_parameters() if p.requires_grad]


@dataclass(frozen=True, slots=True)
class Team:
    """The processes that share a run: each draws its part of the batch, gradients are averaged.

    Attributes:
        rank: This process; 0 writes files.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls) -> "Team":
        """Meet the others when started by torchrun; otherwise work alone."""
        if not distributed.is_torchelastic_launched():
            return cls()
        if not distributed.is_initialized():
            distributed.init_process_group("gloo")
        return cls(distributed.get_rank(), distributed.get_world_size())

    def average(self, parameters: Sequence[nn.Parameter]) -> None:
        """Average gradients over the team; a parameter that a step did not use has gradient 0."""
        for p in parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        if self.size > 1:
            joined = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
            distributed.all_reduce(joined)
            parts = torch.split(joined / self.size, [p.numel() for p in parameters])
            for p, part in zip(parameters, parts, strict=True):
                p.grad = part.view_as(p)


class Trainer:
    """One stage's run in one folder: state.pt, log.jsonl, TensorBoard events and contact sheets."""

    def __init__(self, stage: Stage, schedule: Schedule, folder: Path) -> None:
        self.stage, self.schedule, self.folder = stage, schedule, folder
        self.team = Team.join()
        self.parameters = [p for _, p in _trained(stage.module)]
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=schedule.learning_rate,
            betas=(0.9, 0.98),
            weight_decay=schedule.weight_decay,
            fused=True,
        )
        self.average = Average(stage.module)
        self.step = 0
        self.seconds = 0.0
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "state.pt").exists():
            self._load(folder / "state.pt")

    def run(self) -> None:
        """Learn to the end, saving on the way; leave the averaged weights in the stage's module."""
        with SummaryWriter(str(self.folder)) as board, _bar() as bar:
            task = bar.add_task(self.stage.name, total=self.schedule.steps, completed=self.step, note="")
            while self.step < self.schedule.steps:
                figures = self._advance()
                if self.team.rank:
                    continue
                if self.step % 50 == 0 or self.step == self.schedule.steps:
                    self._log(board, figures)
                bar.update(task, completed=self.step, note=f"loss {figures['loss']:.4f}")
                if self.step % self.schedule.look_every == 0 or self.step == self.schedule.steps:
                    self._log(board, self._look())
                if self.step % self.schedule.save_every == 0 or self.step == self.schedule.steps:
                    self._save()
        fill(self.stage.module, self.average.shadow)

    def _advance(self) -> dict[str, float]:
        begun = time.perf_counter()
        seed = (self.schedule.seed * 1_000_003 + self.step) * self.team.size + self.team.rank
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate(self.step)
        self.stage.module.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.schedule.bfloat16):
            loss, figures = self.stage.loss(
                Random(seed), torch.Generator().manual_seed(seed), self.schedule.batch // self.team.size
            )
        loss.backward()  # type: ignore[no-untyped-call]
        self.team.average(self.parameters)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.schedule.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(self.stage.module, self.schedule.ema)
        self.step += 1
        self.seconds += time.perf_counter() - begun
        return {"loss": loss.item(), "gradient_norm": norm.item(), **figures}

    def _look(self) -> dict[str, float]:
        self.stage.module.eval()
        with self.average.applied(self.stage.module), torch.no_grad():
            return {f"look/{name}": value for name, value in self.stage.look(self.folder, self.step).items()}

    def _log(self, board: SummaryWriter, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            board.add_scalar(name, value, self.step)
        samples = self.step * self.schedule.batch
        line = {"step": self.step, "samples": samples, "seconds": round(self.seconds, 1), **figures}
        with (self.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps({k: round(v, 5) for k, v in line.items()}) + "\n")

    def _save(self) -> None:
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "module": {name: p.detach() for name, p in _trained(self.stage.module)},
            "average": self.average.shadow,
            "average_steps": self.average.steps,
            "optimizer": self.optimizer.state_dict(),
            "schedule": asdict(self.schedule),
        }
        partial = self.folder / "state.pt.partial"
        torch.save(state, partial)
        partial.replace(self.folder / "state.pt")

    def _load(self, path: Path) -> None:
        """Go on from a state; one that holds an average alone (`Recipe.unpack` leaves such) is a start."""
        state = torch.load(path, weights_only=True)
        if "module" not in state:
            self.average.shadow |= state["average"]
            fill(self.stage.module, self.average.shadow)
            return
        fill(self.stage.module, state["module"])
        self.average.shadow = state["average"]
        self.average.steps = state["average_steps"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
