import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor

from tests.training import team_run
from training.errors import TrainingRefused
from training.team import Shards, Team, leave, read_average
from training.trainer import Trainer

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    yield
    leave()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one process, with whole weights and with split ones."""
    folder = tmp_path_factory.mktemp("alone")
    team_run.learn(folder / "whole", split=False)
    team_run.learn(folder / "split", split=True)
    leave()
    return folder


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same runs of two processes."""
    folder = tmp_path_factory.mktemp("together")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*command, "-m", "tests.training.team_run", str(folder)], check=True, cwd=ROOT)
    return folder


def logged(folder: Path) -> list[dict[str, float]]:
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def assert_same_run(one: Path, other: Path) -> None:
    """Assert that losses, gradient norms and averages are the same, as exactly as float32 sums can be."""
    assert len(logged(one)) == len(logged(other)) == 7
    for ours, theirs in zip(logged(one), logged(other), strict=True):
        assert ours == pytest.approx(theirs, abs=2e-5)
    averages = read_average(one), read_average(other)
    assert averages[0].keys() == averages[1].keys()
    for name, average in averages[0].items():
        torch.testing.assert_close(average, averages[1][name], rtol=1e-5, atol=1e-6)


def test_split_weights_learn_what_whole_ones_do(alone: Path) -> None:
    assert_same_run(alone / "whole", alone / "split")


@pytest.mark.parametrize("weights", ["whole", "split"])
def test_two_processes_learn_what_one_does(alone: Path, together: Path, weights: str) -> None:
    assert_same_run(alone / weights, together / weights)


def test_a_state_of_two_processes_is_gone_on_with_by_one(together: Path, alone: Path, tmp_path: Path) -> None:
    shutil.copytree(together / "split", tmp_path / "split")
    trainer = team_run.learn(tmp_path / "split", split=True)
    assert trainer.step == team_run.SCHEDULE.steps
    last = next(iter(trainer.average.shadow.values()))
    assert isinstance(last, DTensor)
    torch.testing.assert_close(
        last.full_tensor(), next(iter(read_average(alone / "split").values())), rtol=1e-5, atol=1e-6
    )


def test_only_the_last_state_is_left_and_half_a_state_is_passed_over(alone: Path, tmp_path: Path) -> None:
    assert [path.name for path in (alone / "split").glob("state*")] == ["state-0000006"]
    shutil.copytree(alone / "split", tmp_path / "split")
    (tmp_path / "split/state.partial").mkdir()
    assert team_run.learn(tmp_path / "split", split=True).step == 6
    assert read_average(tmp_path / "split").keys() == read_average(alone / "split").keys()


def test_split_weights_refuse_an_optimizer_that_needs_whole_ones(tmp_path: Path) -> None:
    stage, team = team_run.Curve(), Shards.join()
    team.shard(stage.module, stage.module.layers, bfloat16=False)
    with pytest.raises(TrainingRefused, match="use adamw"):
        Trainer(stage, replace(team_run.SCHEDULE, optimizer="muon"), tmp_path, team)


def test_bfloat16_computes_roughly_the_same_and_keeps_float32(alone: Path, tmp_path: Path) -> None:
    trainer = team_run.learn(tmp_path, split=True, bfloat16=True)
    assert all(p.dtype == torch.float32 for p in trainer.parameters)
    losses = [[line["loss"] for line in logged(folder)[:6]] for folder in (alone / "split", tmp_path)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_a_parameter_that_a_step_did_not_use_has_gradient_0() -> None:
    used, spare = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    used.sum().backward()
    Team().average([used, spare])
    assert torch.equal(used.grad, torch.ones(2))
    assert torch.equal(spare.grad, torch.zeros(2))


def test_figures_come_in_the_order_of_their_micro_batches() -> None:
    assert Team().gather([{"loss": 1.0}, {"loss": 2.0}]) == [{"loss": 1.0}, {"loss": 2.0}]
    assert Shards.join().gather([{"loss": 1.0}]) == [{"loss": 1.0}]


def test_who_has_not_run_has_no_average(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_average(tmp_path)
