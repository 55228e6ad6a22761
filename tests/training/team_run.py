"""Run by torchrun: a small network learns a function, with whole weights and with split ones."""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from training.schedule import MicroBatch, Schedule
from training.team import Shards, Team, leave
from training.trainer import Trainer

SCHEDULE = Schedule(
    steps=6, batch=16, micro_batch=4, learning_rate=0.02, warmup=1, ema=0.9, bfloat16=False, save_every=3,
    log_every=1, look_every=100,
)  # fmt: skip


class Layer(nn.Linear):
    """A layer that computes in the dtype that its weights have when it is called."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype)).sin()


class Network(nn.Module):
    """Three layers, and an offset that is not always used."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer(1, 15), Layer(15, 15), Layer(15, 1)])
        self.offset = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor, *, shifted: bool) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x.float() + self.offset.sum() if shifted else x.float()


class Curve:
    """A stage that learns a sine; every other step uses the offset."""

    name = "curve"

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.module = Network()

    def loss(self, batch: MicroBatch) -> tuple[Tensor, dict[str, float]]:
        x = torch.randn(batch.size, 1, generator=batch.generator())
        loss = mse_loss(self.module(x, shifted=batch.step % 2 == 1), torch.sin(2 * x))
        return loss, {"first": x[0].item()}

    def look(self, folder: Path, step: int) -> dict[str, float]:
        return {"size": float(sum(p.numel() for p in self.module.parameters()))}


def learn(folder: Path, *, split: bool, bfloat16: bool = False) -> Trainer:
    """Train in a folder, on from what is there."""
    stage = Curve()
    team = Shards.join() if split else Team.join()
    if isinstance(team, Shards):
        team.shard(stage.module, stage.module.layers, bfloat16=bfloat16)
    trainer = Trainer(stage, SCHEDULE, folder, team)
    trainer.run()
    return trainer


if __name__ == "__main__":
    for split in (False, True):
        learn(Path(sys.argv[1]) / ("split" if split else "whole"), split=split)
    leave()
