"""How long and how fast a stage learns, and the micro-batches that its steps are made of."""

from dataclasses import dataclass
from random import Random

import torch

from training.errors import TrainingRefused
from training.optimizers import OptimizerName


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """Samples that are computed at once.

    Attributes:
        size: How many there are.
        step: The optimiser step that they belong to.
        index: Which of the step's micro-batches this is.
        count: How many the step has.
        run: The run's seed.
    """

    size: int
    step: int = 0
    index: int = 0
    count: int = 1
    run: int = 0

    @property
    def seed(self) -> int:
        """What everything random about these samples comes from."""
        return (self.run * 1_000_003 + self.step) * self.count + self.index

    def rng(self) -> Random:
        """Return a new source of choices."""
        return Random(self.seed)

    def generator(self) -> torch.Generator:
        """Return a new source of noise, on the CPU, so that it is the same on every device."""
        return torch.Generator().manual_seed(self.seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long and how fast a stage learns.

    Attributes:
        steps: Optimiser steps in all.
        batch: Samples in a step.
        micro_batch: Samples that are computed at once; None computes the whole batch at once. The processes
            of a team share the micro-batches of a step.
        optimizer: What moves the weights.
        learning_rate: Peak; reached after `warmup` steps, held, then let down to 0 over the last
            `decay` share of the steps.
        ema: Share of the old average kept at each step.
        bfloat16: Multiply matrices in bfloat16, keep weights in float32.
        save_every: Steps between states that a run can resume from.
        look_every: Steps between evaluations.
        log_every: Steps between lines of the log.

    Raises:
        TrainingRefused: Batch and micro-batch do not fit.
    """

    steps: int
    batch: int
    micro_batch: int | None = None
    optimizer: OptimizerName = "adamw"
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
    log_every: int = 50

    def __post_init__(self) -> None:
        if self.micro_batch is not None and (self.micro_batch < 1 or self.batch % self.micro_batch):
            raise TrainingRefused(f"batch {self.batch} must be a multiple of micro_batch {self.micro_batch}")

    def micro_batches(self, step: int) -> list[MicroBatch]:
        """Return what a step computes."""
        size = self.micro_batch or self.batch
        count = self.batch // size
        return [
            MicroBatch(run=self.seed, step=step, index=index, count=count, size=size)
            for index in range(count)
        ]

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        rise = min(1.0, (step + 1) / self.warmup)
        fall = min(1.0, (self.steps - step) / max(1.0, self.decay * self.steps))
        return self.learning_rate * rise * fall
