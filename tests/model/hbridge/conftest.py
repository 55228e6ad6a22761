from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from model.family import Row
from model.hbridge.config import HBridgeConfig
from model.hbridge.network import HBridgeNetwork
from model.qwen_vl.context import KVContext

FOLDER = Path(__file__).parents[2] / "goldens/hbridge"


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, Tensor]]:
    """A golden vector's tensors by its name."""
    return lambda name: load_file(FOLDER / f"{name}.safetensors")


@pytest.fixture(scope="session")
def config(golden_config: dict[str, Any]) -> HBridgeConfig:
    return HBridgeConfig.from_dict(golden_config)


@pytest.fixture
def network(config: HBridgeConfig) -> HBridgeNetwork:
    """The golden network, a new one for each test."""
    network = HBridgeNetwork(config)
    network.load_state_dict(load_file(FOLDER / "weights-gen.safetensors"))
    return network.requires_grad_(False)


@pytest.fixture(scope="session")
def context_of(config: HBridgeConfig) -> Callable[..., KVContext]:
    """The context stored in a golden vector."""

    def read(tensors: dict[str, Tensor], prefix: str = "ctx.") -> KVContext:
        return KVContext(
            layers=tuple(config.pairs),
            keys=tuple(tensors[f"{prefix}k.{pair}"] for pair in config.pairs),
            values=tuple(tensors[f"{prefix}v.{pair}"] for pair in config.pairs),
            ids_L3=tensors[f"{prefix}position_ids"],
            next_id=int(tensors[f"{prefix}next_id"]),
        )

    return read


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
