import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
import torch
from torch import Tensor, nn

from training.trainer import Average, Schedule, Team, Trainer

SCHEDULE = Schedule(steps=6, batch=4, learning_rate=0.1, warmup=2, ema=0.9, save_every=3, look_every=100)


class Stopped(Exception):
    """The process ended."""


class Line:
    """A stage that learns y = 2x, and may stop in the middle."""

    name = "line"

    def __init__(self, stop_at: int | None = None) -> None:
        torch.manual_seed(0)
        self.module: nn.Module = nn.Linear(1, 1)
        self.num_steps, self.stop_at = 0, stop_at

    def loss(self, rng: Random, generator: torch.Generator, batch: int) -> tuple[Tensor, dict[str, float]]:
        if self.num_steps == self.stop_at:
            raise Stopped
        self.num_steps += 1
        x = torch.randn(batch, 1, generator=generator) + rng.random()
        loss = (self.module(x) - 2 * x).square().mean()
        return loss, {"slope": self.module.weight.item()}

    def look(self, folder: Path, step: int) -> dict[str, float]:
        return {"slope": self.module.weight.item()}


def run(folder: Path, stop_at: int | None = None) -> Trainer:
    trainer = Trainer(Line(stop_at), SCHEDULE, folder)
    trainer.run()
    return trainer


def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    with pytest.raises(Stopped):
        run(tmp_path / "stopped", stop_at=5)
    resumed = run(tmp_path / "stopped")
    assert resumed.stage.num_steps == 3
    states = [torch.load(tmp_path / name / "state.pt") for name in ("whole", "stopped")]
    for part in ("module", "average"):
        torch.testing.assert_close(states[0][part], states[1][part], rtol=0, atol=0)
    assert torch.equal(whole.stage.module.weight, resumed.stage.module.weight)


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    first = run(tmp_path)
    again = run(tmp_path)
    assert again.stage.num_steps == 0
    assert torch.equal(first.stage.module.weight, again.stage.module.weight)


def test_an_average_alone_is_a_start(tmp_path: Path) -> None:
    torch.save({"average": {"weight": torch.full((1, 1), 7.0)}}, tmp_path / "state.pt")
    trainer = Trainer(Line(), SCHEDULE, tmp_path)
    assert trainer.step == 0
    assert trainer.stage.module.weight.item() == trainer.average.shadow["weight"].item() == 7
    assert torch.equal(trainer.stage.module.bias, Line().module.bias)


def test_a_run_ends_with_the_averaged_weights_in_the_module(tmp_path: Path) -> None:
    trainer = run(tmp_path)
    assert torch.equal(trainer.stage.module.weight, trainer.average.shadow["weight"])
    assert not torch.equal(trainer.stage.module.weight, torch.load(tmp_path / "state.pt")["module"]["weight"])


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    trainer = Trainer(Line(), replace(SCHEDULE, seed=1), tmp_path / "other")
    trainer.run()
    assert not torch.equal(trainer.stage.module.weight, run(tmp_path / "same").stage.module.weight)


def test_the_log_says_what_was_learnt_and_what_was_seen(tmp_path: Path) -> None:
    run(tmp_path)
    learnt, seen = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert {"step", "samples", "seconds", "loss", "gradient_norm", "slope"} == learnt.keys()
    assert (seen["step"], seen["samples"]) == (6, 24)
    assert "look/slope" in seen


def test_the_learning_rate_rises_holds_and_falls_to_nothing() -> None:
    schedule = Schedule(steps=1000, batch=1, learning_rate=1.0, warmup=100, decay=0.3)
    rates = [schedule.rate(step) for step in range(1001)]
    assert all(a < b for a, b in pairwise(rates[:100]))
    assert set(rates[99:701]) == {1.0}
    assert all(a > b for a, b in pairwise(rates[700:]))
    assert rates[-1] == 0


def test_an_average_is_applied_for_a_while_and_taken_out_again() -> None:
    module = nn.Linear(2, 2)
    average = Average(module)
    old = module.weight.detach().clone()
    with torch.no_grad():
        module.weight += 1
    with average.applied(module):
        assert torch.equal(module.weight, old)
    assert torch.equal(module.weight, old + 1)


def test_an_average_comes_to_rest_where_the_module_rests() -> None:
    module = nn.Linear(2, 2)
    average = Average(module)
    nn.init.ones_(module.weight)
    for _ in range(200):
        average.update(module, 0.9)
    torch.testing.assert_close(average.shadow["weight"], torch.ones(2, 2))


def test_frozen_parameters_have_no_average() -> None:
    module = nn.Linear(2, 2)
    module.bias.requires_grad_(False)
    assert Average(module).shadow.keys() == {"weight"}


def test_a_parameter_that_a_step_did_not_use_has_gradient_0() -> None:
    used, spare = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    used.sum().backward()
    Team().average([used, spare])
    assert torch.equal(used.grad, torch.ones(2))
    assert torch.equal(spare.grad, torch.zeros(2))
