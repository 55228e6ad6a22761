import pytest
import torch

from benchmarks.sizes import MEDIUM
from model.hbridge.config import HBridgeConfig
from model.hbridge.family import HBridge


def test_medium_is_a_valid_config_with_both_experts_512_wide_or_more() -> None:
    config = HBridgeConfig.from_dict(MEDIUM)
    assert config.understanding.hidden_size >= 512
    assert config.generation.hidden_size >= 512
    assert 2 * len(config.pairs) == config.understanding.num_hidden_layers


@pytest.mark.parametrize("part", ["understanding", "generation"])
def test_heads_divide_the_width(part: str) -> None:
    section = MEDIUM[part]
    assert section["hidden_size"] % section["num_attention_heads"] == 0


def test_medium_has_tens_of_millions_of_parameters() -> None:
    with torch.device("meta"):
        family = HBridge.from_config(MEDIUM, None)
    assert sum(p.numel() for p in family.module.parameters()) > 50e6
