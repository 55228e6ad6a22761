import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from model.checkpoint import load
from model.drawing import Drawing
from model.pipeline import draw
from training.full import Full
from training.team import leave

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    yield
    leave()


def losses(recipe: Full) -> list[float]:
    """The loss of every step, as it was last logged."""
    lines = map(json.loads, (recipe.folder("bridge") / "log.jsonl").read_text().splitlines())
    last = {line["step"]: line["loss"] for line in lines if "loss" in line}
    return [last[step] for step in sorted(last)]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: weight for file in folder.glob("*.safetensors") for name, weight in load_file(file).items()}


def test_a_trained_bridge_is_served_and_the_rest_is_as_it_was(make_full: Callable[..., Full]) -> None:
    recipe = make_full(schedule={"bfloat16": True})
    recipe.bridge()
    recipe.keep()
    before, after = tensors(recipe.folder("start")), tensors(recipe.folder("keep"))
    assert after.keys() - before.keys() == {"srt_proj.weight", "srt_proj.bias"}
    for name, weight in before.items():
        is_frozen = name.startswith(("und.", "vae."))
        assert torch.equal(after[name], weight.bfloat16()) or not is_frozen, name
    assert not torch.equal(after["srt_tokens"], before["srt_tokens"])
    (picture,) = draw(
        load(recipe.folder("keep")), Drawing(prompt="red", seed=1, num_inference_steps=2)
    ).images
    assert picture.size == (32, 32)


@pytest.mark.slow
def test_checkpointing_changes_nothing(make_full: Callable[..., Full]) -> None:
    kept, again = (
        make_full("kept", gradient_checkpointing=False),
        make_full("again", gradient_checkpointing=True),
    )
    for recipe in (kept, again):
        recipe.bridge()
    assert losses(kept) == losses(again)
    assert len(losses(kept)) == 4


def command(recipe: Full, *words: str) -> list[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return [*torchrun, "-m", "training", "--recipe", recipe.name, "--runs", str(recipe.runs), *words]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_killed_and_started_again_end_as_one_that_was_not(
    make_full: Callable[..., Full], wait_until: Callable[..., None]
) -> None:
    schedule = {"steps": 8, "look_every": 100}
    whole, killed = make_full("whole", schedule=schedule), make_full("killed", schedule=schedule)
    whole.bridge()
    process = subprocess.Popen(command(killed, "--stage", "bridge"), cwd=ROOT, start_new_session=True)
    try:
        wait_until((killed.folder("bridge") / "state-0000004").exists, 300)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert len(losses(killed)) < 8
    subprocess.run(command(killed), cwd=ROOT, check=True)
    assert losses(killed) == pytest.approx(losses(whole), abs=2e-5)
    averages = whole.average("bridge"), killed.average("bridge")
    for name, average in averages[0].items():
        torch.testing.assert_close(average, averages[1][name], rtol=1e-4, atol=1e-5)
    assert load(killed.folder("keep")).capabilities.family == "hbridge"
