from dataclasses import replace
from typing import Any

import pytest
import torch

from model.checkpoint import build, read_config
from model.hbridge.config import HBridgeConfig
from model.hbridge.network import HBridgeNetwork
from model.hbridge.start import start_weight
from model.registry import resolve


def start(config: HBridgeConfig, which: str, **how: Any) -> torch.Tensor:
    und, gen = config.understanding, config.generation
    queries, keys = und.hidden_size, und.num_key_value_heads * und.head_dim
    shapes = {
        "q": (queries, gen.hidden_size),
        "k": (keys, gen.kv_width),
        "v": (keys, gen.kv_width),
        "o": (gen.hidden_size, queries),
    }
    weight = start_weight(f"bridge.1.{which}_linear.weight", shapes[which], config, **how)
    assert weight.shape == shapes[which]
    return weight


def alike(config: HBridgeConfig) -> HBridgeConfig:
    """Give the generation side the understanding side's heads."""
    und = config.understanding
    sizes = {
        "hidden_size": und.hidden_size,
        "num_attention_heads": und.num_attention_heads,
        "num_kv_heads": und.num_key_value_heads,
        "axes_dim_rope": (4, 4, und.head_dim - 8),
    }
    return replace(config, generation=replace(config.generation, **sizes))


def test_heads_that_are_alike_are_passed_on_as_they_are(config: HBridgeConfig) -> None:
    for which in "qkvo":
        weight = start(alike(config), which)
        assert torch.equal(weight, torch.eye(len(weight)))


def test_nothing_comes_back_through_a_bridge_of_zero(config: HBridgeConfig) -> None:
    assert not start(config, "o", start="zero").any()
    for which in "qkv":
        assert torch.equal(start(config, which, start="zero"), start(config, which))


@pytest.fixture(scope="module")
def full() -> HBridgeConfig:
    return HBridgeConfig.from_dict(read_config(resolve("hbridge")))


def test_at_full_size_every_query_head_has_a_place_of_its_own_and_comes_back(full: HBridgeConfig) -> None:
    q, o = start(full, "q"), start(full, "o")
    assert torch.equal(q.T, o)
    assert torch.equal(o @ q, torch.eye(2520))
    assert q.sum() == 2520


def test_a_query_head_meets_the_keys_it_had(full: HBridgeConfig) -> None:
    q_place = start(full, "q").view(28, 128, 21, 120).sum((1, 3)).argmax(0)
    k_place = start(full, "k").view(4, 128, 7, 120).sum((1, 3)).argmax(0)
    for head in range(21):
        assert q_place[head] // 7 == k_place[head // 3]


def test_key_heads_that_share_a_place_are_averaged(full: HBridgeConfig) -> None:
    shares = start(full, "v").view(4, 128, 7, 120)[:, :120].diagonal(dim1=1, dim2=3).mean(-1)
    torch.testing.assert_close(shares.sum(1), torch.ones(4))
    assert torch.equal((shares > 0).sum(0), torch.ones(7, dtype=torch.int64))


def test_learned_tokens_follow_from_the_seed(config: HBridgeConfig) -> None:
    first, again, other = (start_weight("srt_tokens", (16, 48), config, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.std() == pytest.approx(0.02, rel=0.2)


def test_every_weight_of_every_kind_of_bridge_has_a_start(config: HBridgeConfig) -> None:
    rich = replace(config, bridge_bias=True, bridge_post_norm=True)
    for name, weight in HBridgeNetwork(rich).named_parameters():
        if name.startswith(("bridge.", "srt_tokens")):
            begun = start_weight(name, weight.shape, rich)
            assert begun.shape == weight.shape
            assert begun.any() == (not name.endswith("bias"))
    with pytest.raises(AssertionError, match="no weight of a bridge"):
        start_weight("gen.x_embedder.weight", (1,), rich)


def test_the_names_that_begin_are_those_of_the_checkpoint(full: HBridgeConfig) -> None:
    module = build({"family": "hbridge", **full.to_dict()}).module
    names = [name for name, _ in module.named_parameters() if name.startswith("bridge.6.")]
    assert len(names) == 4
    assert all(start_weight(name, (1,), full).ndim == 2 for name in names)
