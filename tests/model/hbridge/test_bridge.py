from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model.attention import Segments
from model.hbridge.bridge import Bridge, BridgeStream
from model.hbridge.config import HBridgeConfig
from model.omnigen2.blocks import Attention
from model.rope import mrope_table

GEN, UND = (3, 5), (4, 2)
Inputs = tuple[Tensor, tuple[Tensor, Tensor]]


@pytest.fixture
def stream(config: HBridgeConfig) -> BridgeStream:
    und = config.understanding
    ids_T3 = torch.arange(sum(GEN))[:, None].expand(-1, 3)
    table = mrope_table(ids_T3, und.mrope_section, und.rope_theta)
    segments = Segments(GEN, tuple(map(sum, zip(GEN, UND, strict=True))), before_lengths=UND)
    return BridgeStream(segments, *table)


@pytest.fixture
def inputs(config: HBridgeConfig) -> Inputs:
    torch.manual_seed(0)
    und = config.understanding
    kv = torch.randn(2, sum(UND), und.num_key_value_heads, und.head_dim)
    return torch.randn(sum(GEN), config.generation.hidden_size), (kv[0], kv[1])


def test_a_zero_output_map_bridges_nothing(
    config: HBridgeConfig, stream: BridgeStream, inputs: Inputs
) -> None:
    bridge = Bridge(config)
    torch.nn.init.zeros_(bridge.o_linear.weight)
    assert not bridge(Attention(config.generation), inputs[0], stream, inputs[1]).any()


def test_post_norms_make_the_size_of_the_linear_maps_irrelevant(
    config: HBridgeConfig, stream: BridgeStream, inputs: Inputs
) -> None:
    attention = Attention(config.generation)
    bridge = Bridge(replace(config, bridge_post_norm=True))
    before = bridge.project(attention, inputs[0], stream)[0]
    bridge.q_linear.weight.data *= 1000
    torch.testing.assert_close(bridge.project(attention, inputs[0], stream)[0], before, atol=1e-3, rtol=1e-3)
    assert {"norm_q.weight", "norm_k.weight"} <= bridge.state_dict().keys()


def test_biases_are_there_when_the_config_says_so(config: HBridgeConfig) -> None:
    assert "q_linear.bias" in Bridge(replace(config, bridge_bias=True)).state_dict()
    assert "q_linear.bias" not in Bridge(config).state_dict()


def test_equal_scores_spread_attention_evenly(
    config: HBridgeConfig, stream: BridgeStream, inputs: Inputs
) -> None:
    bridge = Bridge(config)
    torch.nn.init.zeros_(bridge.q_linear.weight)
    mass = bridge.understanding_mass(Attention(config.generation), inputs[0], stream, inputs[1])
    expected = sum(und / (und + gen) for und, gen in zip(UND, GEN, strict=True)) / 2
    torch.testing.assert_close(mass, torch.tensor(expected))
