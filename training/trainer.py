"""The loop that every stage shares: resume exactly, learn, average, look, keep.

A stage knows its data and its loss; the trainer knows steps, optimiser, averages and files. A step's samples
come in micro-batches, each drawn from (seed, step, its number) alone. So a run that was stopped anywhere goes
on as if it had not been, and what a step sees does not depend on how many processes share it.
"""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from training.average import Average, fill, trained, whole
from training.errors import TrainingRefused
from training.optimizers import optimizers
from training.schedule import MicroBatch, Schedule
from training.team import Figures, Team


class Stage(Protocol):
    """What is learnt in one stage."""

    name: str
    module: nn.Module

    def loss(self, batch: MicroBatch) -> tuple[Tensor, Figures]:
        """Draw a micro-batch and return the mean loss of its samples, to lower, and figures to log."""
        ...

    def look(self, folder: Path, step: int) -> Figures:
        """Evaluate the averaged weights: return figures to log, and leave pictures in the folder."""
        ...


class Trainer:
    """One stage's run in one folder: its state, log.jsonl, TensorBoard events and contact sheets.

    Raises:
        TrainingRefused: The team cannot share the schedule's micro-batches evenly.
    """

    def __init__(self, stage: Stage, schedule: Schedule, folder: Path, team: Team | None = None) -> None:
        self.stage, self.schedule, self.folder = stage, schedule, folder
        self.team = team or Team.join()
        count = len(schedule.micro_batches(0))
        if count % self.team.size:
            raise TrainingRefused(
                f"{self.team.size} processes cannot share {count} micro-batches: change batch or micro_batch"
            )
        named = trained(stage.module)
        self.parameters = [p for _, p in named]
        self.optimizers = optimizers(schedule.optimizer, named, weight_decay=schedule.weight_decay)
        self.average = Average(stage.module)
        self.step = 0
        self.seconds = 0.0
        folder.mkdir(parents=True, exist_ok=True)
        self._load()

    def run(self) -> None:
        """Learn to the end, saving on the way; leave the averaged weights in the stage's module."""
        is_first = self.team.rank == 0
        with _board(self.folder) if is_first else nullcontext() as board, _bar(shown=is_first) as bar:
            task = bar.add_task(self.stage.name, total=self.schedule.steps, completed=self.step, note="")
            while self.step < self.schedule.steps:
                mine, norm = self._advance()
                bar.update(task, completed=self.step, note=f"loss {mine[0]['loss']:.4f}")
                if self._is_due(self.schedule.log_every):
                    figures = _mean(self.team.gather(mine))
                    self._log(board, {**figures, "gradient_norm": whole(norm).item()})
                if self._is_due(self.schedule.look_every) and self.team.looks:
                    self._log(board, self._look())
                if self._is_due(self.schedule.save_every):
                    self.team.save(self.folder, self._state(), self.stage.module, self.optimizers)
        fill(self.stage.module, self.average.shadow)

    def _is_due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.schedule.steps

    def _advance(self) -> tuple[list[Figures], Tensor]:
        """Take a step; return figures of this process's micro-batches and the norm of all gradients."""
        begun = time.perf_counter()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.schedule.rate(self.step)
        self.stage.module.train()
        batches = self.schedule.micro_batches(self.step)[self.team.rank :: self.team.size]
        mine: list[Figures] = []
        for batch in batches:
            with self.team.computing(bfloat16=self.schedule.bfloat16):
                loss, figures = self.stage.loss(batch)
            (loss / len(batches)).backward()  # type: ignore[no-untyped-call]
            mine.append({"loss": loss.item(), **figures})
        self.team.average(self.parameters)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.schedule.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.average.update(self.stage.module, self.schedule.ema)
        self.step += 1
        self.seconds += time.perf_counter() - begun
        return mine, norm

    def _look(self) -> Figures:
        self.stage.module.eval()
        with self.average.applied(self.stage.module), torch.no_grad():
            return {f"look/{name}": value for name, value in self.stage.look(self.folder, self.step).items()}

    def _log(self, board: SummaryWriter | None, figures: Mapping[str, float]) -> None:
        if board is None:
            return
        for name, value in figures.items():
            board.add_scalar(name, value, self.step)
        samples = self.step * self.schedule.batch
        line = {"step": self.step, "samples": samples, "seconds": round(self.seconds, 1), **figures}
        with (self.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps({k: round(v, 5) for k, v in line.items()}) + "\n")

    def _state(self) -> dict[str, Any]:
        """Return all that a run goes on from, less the optimiser; samples and noise come from the step."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "module": {name: p.detach() for name, p in trained(self.stage.module)},
            "average": self.average.shadow,
            "average_steps": self.average.steps,
            "schedule": asdict(self.schedule),
        }

    def _load(self) -> None:
        """Go on from a state; one that holds an average alone (`Recipe.unpack` leaves such) is a start."""
        state = self.team.load(self.folder, self._state(), self.stage.module, self.optimizers)
        if state is None:
            return
        if "module" not in state:
            self.average.shadow |= state["average"]
            fill(self.stage.module, self.average.shadow)
            return
        fill(self.stage.module, state["module"])
        self.average.shadow = state["average"]
        self.average.steps = state["average_steps"]
        self.step, self.seconds = state["step"], state["seconds"]


def _mean(figures: Sequence[Figures]) -> Figures:
    """Average each figure over those micro-batches that have it."""
    names = dict.fromkeys(name for each in figures for name in each)
    found = {name: [each[name] for each in figures if name in each] for name in names}
    return {name: sum(values) / len(values) for name, values in found.items()}


def _board(folder: Path) -> SummaryWriter:
    return SummaryWriter(str(folder))


def _bar(*, shown: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        disable=not shown,
    )
