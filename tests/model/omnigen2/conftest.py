import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from model.family import Row
from model.omnigen2.config import OmniGen2CheckpointConfig, OmniGen2Config
from model.omnigen2.family import OmniGen2, TextContext

FOLDER = Path(__file__).parents[2] / "goldens/omnigen2"
WEIGHTS = ("weights-layers", "weights-refiners-a", "weights-refiners-b")


@pytest.fixture(scope="session")
def described() -> Callable[[str], dict[str, Any]]:
    """A golden vector's description by its name."""
    return lambda name: json.loads((FOLDER / f"{name}.json").read_text())


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, Tensor]]:
    """A golden vector's tensors by its name."""
    return lambda name: load_file(FOLDER / f"{name}.safetensors")


@pytest.fixture(scope="session")
def config(described: Callable[[str], dict[str, Any]]) -> OmniGen2Config:
    return OmniGen2Config.from_dict(described("fwd_t2i")["config"])


@pytest.fixture(scope="session")
def family(config: OmniGen2Config) -> OmniGen2:
    family = OmniGen2(OmniGen2CheckpointConfig(transformer=config), None)
    weights = {
        name: tensor for file in WEIGHTS for name, tensor in load_file(FOLDER / f"{file}.safetensors").items()
    }
    family.transformer.load_state_dict(weights)
    family.module.requires_grad_(False).eval()
    return family


@pytest.fixture
def make_row(config: OmniGen2Config) -> Callable[..., Row]:
    """A row of random tensors; the same arguments give the same row."""

    def make(seed: int, noise: tuple[int, int], num_text: int, *references: tuple[int, int]) -> Row:
        generator = torch.Generator().manual_seed(seed)
        C, F = config.in_channels, config.text_feat_dim
        return Row(
            latent_CYX=torch.randn(C, *noise, generator=generator),
            time=0.1 + 0.07 * seed,
            context=TextContext(torch.randn(num_text, F, generator=generator)),
            references=tuple(torch.randn(C, *size, generator=generator) for size in references),
        )

    return make
