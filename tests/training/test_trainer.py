import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from training.errors import TrainingRefused
from training.optimizers import OptimizerName
from training.schedule import MicroBatch, Schedule
from training.team import Team
from training.trainer import Trainer

SCHEDULE = Schedule(steps=6, batch=4, learning_rate=0.1, warmup=2, ema=0.9, save_every=3, look_every=100)


class Stopped(Exception):
    """The process ended."""


class Line:
    """A stage that learns y = 2x, and may stop in the middle."""

    name = "line"

    def __init__(self, stop_at: int | None = None) -> None:
        torch.manual_seed(0)
        self.linear = nn.Linear(1, 1)
        self.module: nn.Module = nn.Sequential(self.linear)
        self.num_steps, self.stop_at = 0, stop_at

    def loss(self, batch: MicroBatch) -> tuple[Tensor, dict[str, float]]:
        if self.num_steps == self.stop_at:
            raise Stopped
        self.num_steps += 1
        x = torch.randn(batch.size, 1, generator=batch.generator()) + batch.rng().random()
        loss = (self.module(x) - 2 * x).square().mean()
        return loss, {"slope": self.linear.weight.item()}

    def look(self, folder: Path, step: int) -> dict[str, float]:
        return {"slope": self.linear.weight.item()}


def run(folder: Path, stop_at: int | None = None, schedule: Schedule = SCHEDULE) -> Trainer:
    trainer = Trainer(Line(stop_at), schedule, folder)
    trainer.run()
    return trainer


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path: Path, optimizer: OptimizerName) -> None:
    schedule = replace(SCHEDULE, optimizer=optimizer)
    whole = run(tmp_path / "whole", schedule=schedule)
    with pytest.raises(Stopped):
        run(tmp_path / "stopped", stop_at=5, schedule=schedule)
    resumed = run(tmp_path / "stopped", schedule=schedule)
    assert resumed.stage.num_steps == 3
    states = [torch.load(tmp_path / name / "state.pt") for name in ("whole", "stopped")]
    for part in ("module", "average"):
        torch.testing.assert_close(states[0][part], states[1][part], rtol=0, atol=0)
    slopes = [trainer.stage.module.state_dict() for trainer in (whole, resumed)]
    torch.testing.assert_close(slopes[0], slopes[1], rtol=0, atol=0)


def test_a_run_does_not_go_on_with_another_optimizer(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(TrainingRefused, match="another optimizer"):
        run(tmp_path, schedule=replace(SCHEDULE, optimizer="muon"))


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    first = run(tmp_path)
    again = run(tmp_path)
    assert again.stage.num_steps == 0
    assert torch.equal(first.stage.linear.weight, again.stage.linear.weight)


def test_an_average_alone_is_a_start(tmp_path: Path) -> None:
    torch.save({"average": {"0.weight": torch.full((1, 1), 7.0)}}, tmp_path / "state.pt")
    trainer = Trainer(Line(), SCHEDULE, tmp_path)
    assert trainer.step == 0
    assert trainer.stage.linear.weight.item() == trainer.average.shadow["0.weight"].item() == 7
    assert torch.equal(trainer.stage.linear.bias, Line().linear.bias)


def test_a_run_ends_with_the_averaged_weights_in_the_module(tmp_path: Path) -> None:
    trainer = run(tmp_path)
    assert torch.equal(trainer.stage.linear.weight, trainer.average.shadow["0.weight"])
    assert not torch.equal(
        trainer.stage.linear.weight, torch.load(tmp_path / "state.pt")["module"]["0.weight"]
    )


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    trainer = Trainer(Line(), replace(SCHEDULE, seed=1), tmp_path / "other")
    trainer.run()
    assert not torch.equal(trainer.stage.linear.weight, run(tmp_path / "same").stage.linear.weight)


def test_the_log_says_what_was_learnt_and_what_was_seen(tmp_path: Path) -> None:
    run(tmp_path)
    learnt, seen = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert {"step", "samples", "seconds", "loss", "gradient_norm", "slope"} == learnt.keys()
    assert (seen["step"], seen["samples"]) == (6, 24)
    assert "look/slope" in seen


def test_micro_batches_are_a_step_together(tmp_path: Path) -> None:
    whole = replace(SCHEDULE, batch=8, micro_batch=2, steps=1, ema=0.0, bfloat16=False)
    Trainer(Line(), whole, tmp_path).run()
    stage = Line()
    losses = [stage.loss(batch)[0] for batch in whole.micro_batches(0)]
    torch.stack(losses).mean().backward()
    norm = torch.cat([p.grad.flatten() for p in stage.module.parameters()]).norm().item()
    logged = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])
    assert logged["loss"] == pytest.approx(sum(loss.item() for loss in losses) / 4, abs=1e-5)
    assert logged["gradient_norm"] == pytest.approx(norm, rel=1e-4)


def test_a_team_that_cannot_share_a_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingRefused, match="3 processes cannot share 2 micro-batches"):
        Trainer(Line(), replace(SCHEDULE, micro_batch=2), tmp_path, Team(size=3))
