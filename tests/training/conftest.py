"""The tiny recipe with random weights and a few samples: real networks, nothing learnt."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from model.hbridge.family import HBridge
from model.qwen_vl.tokenizer import Tokenizer
from training.autoencoder import AutoencoderStage
from training.drawings import Group, Shelf, fill_shelf
from training.generation import initialise
from training.prefills import Prefills, fill_prefills
from training.recipe import Recipe
from training.understanding import UnderstandingStage
from training.vocabulary import train_tokenizer

GROUPS = (Group(False, 64, 64, 6), Group(True, 64, 64, 6))


def leave(recipe: Recipe, stage: str, module: nn.Module) -> None:
    """Write a module's weights as a stage's run leaves them."""
    recipe.folder(stage).mkdir(parents=True, exist_ok=True)
    average = {name: p.detach() for name, p in module.named_parameters()}
    torch.save({"average": average}, recipe.folder(stage) / "state.pt")


@pytest.fixture(scope="session")
def vae() -> nn.Module:
    """The recipe's autoencoder with random weights."""
    torch.manual_seed(0)
    config = Recipe("tiny", Path()).read("vae")
    return AutoencoderStage(config["model"], **config["options"]).module.eval()


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny/tokenizer"
    options = Recipe("tiny", Path()).read("vlm")["tokenizer"]
    train_tokenizer(folder, **(options | {"sentences": 4000}))
    return folder


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_folder(tokenizer_folder)
    assert tokenizer is not None
    return tokenizer


@pytest.fixture(scope="session")
def understanding(tokenizer_folder: Path) -> UnderstandingStage:
    """The recipe's understanding stage with random weights, which tests leave as they are."""
    torch.manual_seed(1)
    config = Recipe("tiny", Path()).read("vlm")
    return UnderstandingStage(config["model"], tokenizer_folder, bridged=range(2, 6), **config["options"])


@pytest.fixture(scope="session")
def recipe(tokenizer_folder: Path, vae: nn.Module, understanding: UnderstandingStage) -> Recipe:
    """The recipe as it is before the stage "prior"."""
    recipe = Recipe("tiny", tokenizer_folder.parents[1])
    leave(recipe, "vae", vae)
    leave(recipe, "vlm", understanding.module)
    (recipe.folder("vae") / "latents.json").write_text(json.dumps({"shift": 0.1, "scale": 2.0}))
    return recipe


@pytest.fixture(scope="session")
def shelves(recipe: Recipe, vae: nn.Module) -> list[Shelf]:
    """Six prompts and six edits."""
    vae.register_to_config(shift_factor=0.1, scaling_factor=2.0)
    for group in GROUPS:
        fill_shelf(recipe.folder("latents"), group, vae)
    return [Shelf(recipe.folder("latents"), group) for group in GROUPS]


@pytest.fixture(scope="session")
def prefills(recipe: Recipe) -> list[Prefills]:
    """What the expert says of them."""
    family = recipe.assemble()
    for group in GROUPS:
        fill_prefills(recipe.folder("prefill"), group, family)
    return [Prefills(recipe.folder("prefill"), group) for group in GROUPS]


@pytest.fixture
def bridged(recipe: Recipe) -> HBridge:
    """The whole model, as the stage "bridge" begins with it."""
    torch.manual_seed(2)
    family = recipe.assemble()
    initialise(family.network)
    family.network.requires_grad_(True)
    family.expert.use_backend("plain")
    return family
