from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from model.qwen_vl.config import QwenVLConfig
from model.qwen_vl.expert import QwenVL
from model.qwen_vl.token_prompt import ImagePatches, TokenPrompt

GOLDENS = Path(__file__).parents[2] / "goldens" / "hbridge"


@pytest.fixture(scope="session")
def config(golden_config: dict[str, Any]) -> QwenVLConfig:
    return QwenVLConfig.from_dict(golden_config["understanding"])


@pytest.fixture(scope="session")
def text_golden() -> dict[str, Tensor]:
    return load_file(GOLDENS / "prefill_text.safetensors")


@pytest.fixture(scope="session")
def image_golden() -> dict[str, Tensor]:
    return load_file(GOLDENS / "velocity_ref1.safetensors")


@pytest.fixture(scope="session")
def text_prompt(text_golden: dict[str, Tensor]) -> TokenPrompt:
    return TokenPrompt(tokens=tuple(text_golden["in.tokens"].tolist()))


@pytest.fixture(scope="session")
def image_prompt(image_golden: dict[str, Tensor]) -> TokenPrompt:
    image = ImagePatches(patches_PE=image_golden["in.image.0.patches"], rows=3, columns=4)
    return TokenPrompt(tokens=tuple(image_golden["in.tokens"].tolist()), images=(image,))


@pytest.fixture
def expert(config: QwenVLConfig) -> QwenVL:
    with torch.device("meta"):
        expert = QwenVL(config)
    stored = load_file(GOLDENS / "weights-und.safetensors")
    expert.load_state_dict(
        {name.removeprefix("und."): weight for name, weight in stored.items()}, assign=True
    )
    return expert.requires_grad_(False).eval()
