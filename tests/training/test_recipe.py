import json
from pathlib import Path

import pytest
import torch
import yaml

from model.checkpoint import load, weights_hash
from model.hbridge.config import HBridgeConfig
from training.drawings import Group
from training.recipe import LOGGED, Recipe
from training.runs import RECIPES
from training.schedule import Schedule

FILES = sorted(RECIPES.glob("*/*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_file_of_a_recipe_is_read(path: Path) -> None:
    content = Recipe(path.parent.name, Path()).read(path.stem)
    assert content == yaml.safe_load(path.read_text())
    if "schedule" in content:
        assert content["stage"] == path.stem
        assert Schedule(**content["schedule"]).steps > 0


def test_seeds_differ_from_stage_to_stage() -> None:
    contents = [Recipe("tiny", Path()).read(path.stem) for path in FILES if path.parent.name == "tiny"]
    seeds = [content["schedule"]["seed"] for content in contents if "schedule" in content]
    assert len(set(seeds)) == len(seeds)


def test_the_parts_of_a_recipe_make_a_valid_config() -> None:
    recipe = Recipe("tiny", Path())
    parts = {"understanding": recipe.read("vlm")["model"], "vae": recipe.read("vae")["model"]}
    config = HBridgeConfig.from_dict(recipe.read("hbridge") | parts)
    assert config.problems() == []
    step = config.size_step
    for group in (Group(**each) for each in recipe.read("latents")["groups"]):
        assert group.width % step == group.height % step == 0
        assert max(group.width, group.height) <= config.limits.max_side


def test_an_unknown_stage_is_refused() -> None:
    with pytest.raises(ValueError, match="'oven' must be one of tokenizer, vae"):
        Recipe("tiny", Path()).run("oven")


def test_every_stage_is_a_thing_that_a_recipe_does() -> None:
    assert all(callable(getattr(Recipe, stage)) for stage in (*Recipe.STAGES, *Recipe.ASIDE))


def test_a_stage_whose_forerunner_has_not_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run stage latents first"):
        Recipe("tiny", tmp_path).run("prior")


def test_latents_are_measured_once(recipe: Recipe) -> None:
    config = recipe.assemble().config
    measured = json.loads((recipe.folder("vae") / "latents.json").read_text())
    assert config.vae is not None
    assert (config.vae["shift_factor"], config.vae["scaling_factor"]) == tuple(measured.values())


def test_an_assembled_model_has_the_weights_that_the_stages_left(recipe: Recipe) -> None:
    family = recipe.assemble()
    weights = recipe.average("vlm")
    for name, p in family.expert.named_parameters():
        assert torch.equal(p, weights[f"expert.{name}"])
    assert not any(p.requires_grad for p in family.module.parameters())


def test_a_missing_weight_is_named(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "tiny").symlink_to(recipe.folder("vae").parent)
    other = Recipe("tiny", tmp_path / "copy")
    for stage in ("vae", "vlm", "tokenizer"):
        other.folder(stage).mkdir(parents=True)
        for file in recipe.folder(stage).iterdir():
            (other.folder(stage) / file.name).symlink_to(file)
    (other.folder("vae") / "state.pt").unlink()
    torch.save({"average": {}}, other.folder("vae") / "state.pt")
    with pytest.raises(ValueError, match=r"no weights for .*decoder\.conv_in"):
        other.assemble()


@pytest.fixture
def kept(recipe: Recipe, tmp_path: Path) -> Path:
    """A checkpoint kept from the recipe's random weights."""
    network = recipe.assemble().network
    for stage in LOGGED:
        recipe.folder(stage).mkdir(exist_ok=True)
        (recipe.folder(stage) / "log.jsonl").write_text(f'{{"stage": "{stage}"}}')
    average = {name: p.detach() for name, p in network.named_parameters()}
    torch.save({"average": average}, recipe.folder("bridge") / "state.pt")
    recipe.keep(folder=tmp_path / "kept")
    return tmp_path / "kept"


def test_what_is_kept_loads_again_with_the_averaged_weights(recipe: Recipe, kept: Path) -> None:
    average = recipe.average("bridge")
    assert {path.stem for path in (kept / "logs").iterdir()} == set(LOGGED)
    family = load(kept)
    assert family.config == recipe.assemble().config
    for name, p in family.network.named_parameters():
        torch.testing.assert_close(p, average[name].bfloat16().float(), rtol=0, atol=0)


def test_an_unpacked_checkpoint_is_kept_as_it_was(recipe: Recipe, kept: Path, tmp_path: Path) -> None:
    other = Recipe("tiny", tmp_path / "other")
    other.unpack(folder=kept)
    other.keep(folder=tmp_path / "again")
    assert (tmp_path / "again/config.json").read_text() == (kept / "config.json").read_text()
    assert weights_hash(tmp_path / "again") == weights_hash(kept)
    with pytest.raises(FileExistsError, match="move them away"):
        other.unpack(folder=kept)
