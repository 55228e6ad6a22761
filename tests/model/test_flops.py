from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from model.attention import Segments, attend
from model.flops import AutoencoderFlops, attention, lengths_of_different, per_token
from model.latents import build_autoencoder

VAE = {
    "latent_channels": 4,
    "block_out_channels": [32, 64],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "layers_per_block": 2,
}


@pytest.mark.parametrize("has_attention", [True, False])
@pytest.mark.parametrize("sides", [(6, 10), (32, 16)])
def test_an_autoencoder_takes_what_is_counted_whatever_the_size(
    measure: Callable[..., Any], sides: tuple[int, int], has_attention: bool
) -> None:
    config = VAE | {"mid_block_add_attention": has_attention}
    autoencoder: Any = build_autoencoder(config).requires_grad_(False)
    latent_CYX = torch.randn(4, *sides)
    flops = AutoencoderFlops(config)
    picture, decoding = measure(autoencoder.decode, latent_CYX[None])
    assert flops.decode([latent_CYX]) == decoding
    assert flops.encode([latent_CYX] * 2) == 2 * measure(autoencoder.encode, picture.sample)[1]


def test_without_an_autoencoder_there_is_nothing_to_count() -> None:
    flops = AutoencoderFlops(None)
    assert flops.encode([torch.randn(4, 2, 2)]) == flops.decode([torch.randn(4, 2, 2)]) == 0


@pytest.mark.parametrize("causal", [True, False])
def test_attention_takes_what_is_counted(measure: Callable[..., Any], causal: bool) -> None:
    q_THD, k_SKD = torch.randn(9, 4, 8), torch.randn(14, 2, 8)
    _, counted = measure(attend, q_THD, k_SKD, k_SKD, Segments((4, 4, 1), (5, 5, 4), causal=causal))
    assert attention(32, 4 * 5 + 4 * 5 + 1 * 4) == counted


def test_linear_layers_take_what_is_counted_for_every_token(measure: Callable[..., Any]) -> None:
    network = nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.ModuleList([nn.Linear(5, 2)])[0])
    assert 7 * per_token(network) == measure(network, torch.randn(7, 3))[1]
    assert per_token(network[0], network[2]) == per_token(network)


def test_what_is_the_same_is_counted_once() -> None:
    assert lengths_of_different([("a", 3), ("b", 3), ("a", 3)]) == [3, 3]
