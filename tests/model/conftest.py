from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from model.family import Row
from model.hbridge.config import HBridgeConfig
from model.qwen_vl.context import KVContext


@pytest.fixture(scope="session")
def measure() -> Callable[..., tuple[Any, int]]:
    """Return a function that makes a call and returns what it gave and what PyTorch counted in it."""

    def make(call: Callable[..., Any], *values: Any, **named: Any) -> tuple[Any, int]:
        # PyTorch does not count its fused attention on a CPU, and counts the same in plain products.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            given = call(*values, **named)
        return given, counter.get_total_flops()

    return make


@pytest.fixture(scope="session")
def make_row() -> Callable[..., Row]:
    """A row of random tensors for any config; the same arguments give the same row."""

    def make(
        config: HBridgeConfig, seed: int, noise: tuple[int, int], num_und: int, *references: tuple[int, int]
    ) -> Row:
        generator = torch.Generator().manual_seed(seed)
        und, C = config.understanding, config.generation.in_channels
        shape = (len(config.pairs), 2, num_und, und.num_key_value_heads, und.head_dim)
        kv = torch.randn(*shape, generator=generator)
        context = KVContext(
            layers=tuple(config.pairs),
            keys=tuple(kv[:, 0]),
            values=tuple(kv[:, 1]),
            ids_L3=torch.arange(num_und)[:, None].expand(-1, 3),
            next_id=num_und,
        )
        return Row(
            latent_CYX=torch.randn(C, *noise, generator=generator),
            time=0.1 + 0.07 * seed,
            context=context,
            references=tuple(torch.randn(C, *size, generator=generator) for size in references),
        )

    return make
