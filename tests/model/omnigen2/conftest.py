import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from model.checkpoint import build_random
from model.family import Row
from model.omnigen2.config import OmniGen2Config
from model.omnigen2.family import OmniGen2, TextContext
from tests.model.omnigen2.goldens import golden_family


@pytest.fixture(scope="session")
def family() -> OmniGen2:
    """The transformer of the golden vectors, alone."""
    return golden_family()


@pytest.fixture(scope="session")
def config(family: OmniGen2) -> OmniGen2Config:
    return family.config.transformer


@pytest.fixture
def make_row(config: OmniGen2Config) -> Callable[..., Row]:
    """A row of random tensors; the same arguments give the same row."""

    def make(seed: int, noise: tuple[int, int], num_text: int, *references: tuple[int, int]) -> Row:
        generator = torch.Generator().manual_seed(seed)
        C, h = config.in_channels, config.hidden_size
        return Row(
            latent_CYX=torch.randn(C, *noise, generator=generator),
            time=0.1 + 0.07 * seed,
            context=TextContext(torch.randn(num_text, h, generator=generator)),
            references=tuple(torch.randn(C, *size, generator=generator) for size in references),
        )

    return make


@pytest.fixture(scope="session")
def whole(drawing_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A random checkpoint with every part, and the tokenizer where its folders have it."""
    folder = tmp_path_factory.mktemp("omnigen2")
    (folder / "processor").symlink_to(drawing_folder)
    given = json.loads((drawing_folder / "config.json").read_text())
    transformer = given["generation"] | {"text_feat_dim": given["understanding"]["hidden_size"]}
    parts = {"transformer": transformer, "vae": given["vae"], "mllm": given["understanding"]}
    return build_random({"family": "omnigen2", **parts}, folder)
