"""Both recipes at small size with random weights and a few samples: real networks, nothing learnt."""

import json
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image
from torch import nn

from model.convert import convert
from model.hbridge.family import HBridge
from model.qwen_vl.tokenizer import Tokenizer
from training.autoencoder import AutoencoderStage
from training.bridge import initialise
from training.drawings import Group, Shelf, fill_shelf
from training.full import Full
from training.prefills import Prefills, fill_prefills
from training.recipe import Recipe
from training.runs import RECIPES
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


def png(seed: int, size: tuple[int, int]) -> bytes:
    """A picture of one colour, as a file."""
    file = BytesIO()
    Image.new("RGB", size, (seed * 40 % 256, seed * 90 % 256, seed * 130 % 256)).save(file, "PNG")
    return file.getvalue()


def write_dataset(folder: Path, files: Mapping[str, list[bytes | None]], texts: list[str]) -> None:
    """Write columns of picture files and texts as three shards, or fewer if there are fewer."""
    features = Features({name: ImageFeature() for name in files} | {"text": Value("string")})
    content = {
        name: [None if data is None else {"bytes": data, "path": None} for data in column]
        for name, column in files.items()
    }
    dataset = Dataset.from_dict(content | {"text": texts}, features=features)
    dataset.save_to_disk(folder, num_shards=min(3, len(texts)))


@pytest.fixture(scope="session")
def start(qwen_folder: Path, omnigen2_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `hbridge convert` makes of two small experts, and two small datasets beside it."""
    folder = tmp_path_factory.mktemp("full")
    limits = {"min_side": 16, "max_side": 64, "max_pixels": 64 * 64, "default_size": [32, 32]}
    config = {"skip_first": 1, "skip_last": 1, "srt_count": 4, "limits": limits}
    convert(qwen_folder, omnigen2_folder, folder / "start", config=config)
    sizes = [(32, 32), (32, 48), (48, 32)]
    pictures = [png(i, sizes[i % 3]) for i in range(12)]
    write_dataset(folder / "data/generate", {"image": pictures}, [f"picture {i}" for i in range(12)])
    edited = {"source": pictures[:8], "image": [png(i + 1, sizes[i % 3]) for i in range(8)]}
    write_dataset(folder / "data/edit", edited, [f"make it {i}" for i in range(8)])
    return folder


@pytest.fixture
def make_full(start: Path, tmp_path: Path) -> Callable[..., Full]:
    """Return a function that makes the full recipe with a short schedule, in a folder of its own."""

    def make(runs: str = "runs", **changes: Any) -> Full:
        config = yaml.safe_load((RECIPES / "full/bridge.yaml").read_text())
        config["schedule"] |= {
            "steps": 4, "batch": 4, "micro_batch": 2, "learning_rate": 1e-3, "warmup": 1, "bfloat16": False,
            "save_every": 2, "look_every": 4, "log_every": 1,
        }  # fmt: skip
        config["source"] |= {"max_pixels": 32 * 48, "look_at": 1}
        for columns in config["datasets"]:
            columns |= {"weight": 1, "held_out": 2}
        for name, change in changes.items():
            config[name] = {**config[name], **change} if isinstance(change, dict) else change
        recipe, place = tmp_path / f"recipe-{runs}/full", tmp_path / runs / "full"
        recipe.mkdir(parents=True)
        place.mkdir(parents=True, exist_ok=True)
        for name in ("start", "data"):
            if not (place / name).exists():
                (place / name).symlink_to(start / name)
        (recipe / "bridge.yaml").write_text(yaml.safe_dump(config))
        return Full(str(recipe), tmp_path / runs)

    return make
