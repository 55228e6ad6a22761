from pathlib import Path

import pytest
import torch

from training.errors import TrainingRefused
from training.runs import RECIPES, Runs, recipe_folder


def test_a_recipe_is_one_of_ours_or_a_folder(tmp_path: Path) -> None:
    assert recipe_folder("full") == RECIPES / "full"
    (tmp_path / "bridge.yaml").write_text("stage: bridge")
    assert recipe_folder(str(tmp_path)) == tmp_path
    assert Runs(str(tmp_path), Path()).read("bridge") == {"stage": "bridge"}


@pytest.mark.parametrize("name", ["huge", "."])
def test_an_unknown_recipe_is_answered_with_the_known_ones(name: str) -> None:
    with pytest.raises(TrainingRefused, match=rf"'{name}' must be one of full, tiny, or a folder"):
        recipe_folder(name)


def test_runs_of_a_folder_lie_under_its_name(tmp_path: Path) -> None:
    assert Runs("/elsewhere/mine", tmp_path).folder("bridge") == tmp_path / "mine/bridge"


def test_the_average_of_a_stage_is_read_back(tmp_path: Path) -> None:
    runs = Runs("tiny", tmp_path)
    runs.folder("vae").mkdir(parents=True)
    torch.save({"average": {"weight": torch.ones(2)}}, runs.folder("vae") / "state.pt")
    assert torch.equal(runs.average("vae")["weight"], torch.ones(2))


def test_there_is_no_stage_that_is_not_named() -> None:
    with pytest.raises(ValueError, match="must be one of"):
        Runs("tiny", Path()).run("read")
